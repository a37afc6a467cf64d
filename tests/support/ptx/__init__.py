"""An interpreter of PTX, which is what compilers make of kernels before a driver has them.

It runs a kernel's threads on numpy, so that tests see the compiled code at work where there is no
GPU: its results, its bounds and alignment, and the order in which its threads touch memory.
"""
