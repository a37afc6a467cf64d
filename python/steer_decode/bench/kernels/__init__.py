"""Each kernel against its peers, in one run."""
