// decode_attention: what its passes read. Scratch of a thread, rows as floats, the place of a task,
// and what is to be fetched ahead.
//
// Included once by tiles.h, before decode_attention_tile.h, in the same namespace.
#pragma once

constexpr int64_t kPart = 32;
constexpr int64_t kAheadBytes = 16 * 1024;  // about a microsecond of reading
constexpr int kHeads = Vec::kLanes == 16 ? 4 : 2;  // there are 32 registers, or 16
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

inline int64_t whole_vectors(int64_t size) {
  return (size + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes;
}

inline void store(float* to, Vec vector) { std::memcpy(to, &vector, sizeof(vector)); }

// Scratch of one thread, aligned to cache lines.
struct AttentionScratch {
  explicit AttentionScratch(const DecodeAttentionParams& params, int64_t rows)
      : query_size(whole_vectors(params.size)) {
    const int64_t widest = std::max(query_size, whole_vectors(params.value_size));
    const int64_t queries = rows * query_size, staged_rows = std::max<int64_t>(kPart, Vec::kLanes);
    memory.reset(new float[queries + rows * kBlockKeys + staged_rows * widest + 16]);
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory.get());
    query = memory.get() + (64 - address % 64) % 64 / sizeof(float);
    scores = query + queries;
    staged = scores + rows * kBlockKeys;
  }

  std::unique_ptr<float[]> memory;
  int64_t query_size;
  float* query;   // [rows, query_size], scaled
  float* scores;  // [rows, kBlockKeys], then the weights
  float* staged;  // [kPart or kLanes, the larger of the two sizes]
};

struct FloatRows {
  const float* data;
  int64_t stride;
};

// `count` rows of `size` elements as floats, padded to whole vectors.
template <class T>
inline void copy_rows(const T* data, int64_t stride, int64_t count, int64_t size, float* to) {
  const int64_t padded = whole_vectors(size), body = size / Vec::kLanes * Vec::kLanes;
  for (int64_t row = 0; row < count; ++row, data += stride, to += padded) {
    for (int64_t i = 0; i < body; i += Vec::kLanes) store(to + i, Vec::load(data + i));
    for (int64_t i = body; i < size; ++i) to[i] = to_float(data[i]);
    for (int64_t i = size; i < padded; ++i) to[i] = 0.0f;
  }
}

inline FloatRows as_float_rows(const float* data, int64_t stride, int64_t count, int64_t size,
                               float* scratch) {
  if (size % Vec::kLanes == 0) return {data, stride};
  copy_rows(data, stride, count, size, scratch);
  return {scratch, whole_vectors(size)};
}

template <class T>
inline FloatRows as_float_rows(const T* data, int64_t stride, int64_t count, int64_t size,
                               float* scratch) {
  copy_rows(data, stride, count, size, scratch);
  return {scratch, whole_vectors(size)};
}

// Rows that are to be read some time later, to be brought into L2. The processor's own prefetcher
// stops at the end of a page. A core has few slots for misses of L1, and asking for many lines at
// once fills them and stalls what comes after: so each product asks for its share only.
struct Ahead {
  const char* data = nullptr;
  int64_t stride = 0;  // in bytes
  int64_t bytes = 0;   // of a row; 0 where nothing follows

  void prefetch_row(int64_t row) const {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + row * stride + i, 0, 2);
  }
  // Part `index` of `parts` of every row.
  Ahead part(int64_t index, int64_t parts) const {
    const int64_t lines = (bytes + 63) / 64;
    const int64_t begin = index * lines / parts, end = (index + 1) * lines / parts;
    return {data + begin * 64, stride, (end - begin) * 64};
  }
};

// What one task is about: pointers to its head, and the positions of its block.
template <class T>
struct AttentionTask {
  const DecodeAttentionParams& params;
  int64_t row, kv_head, index, end_of_row;
  KeyRange block;  // as far as any query of the row reads

  AttentionTask(const DecodeAttentionParams& params_, const DecodeAttentionWorkspace& work,
                int64_t task)
      : params(params_), index(task) {
    const auto after = std::upper_bound(work.tasks.begin(), work.tasks.end(), task);
    row = after - work.tasks.begin() - 1;
    const int64_t of_row = task - work.tasks[row], blocks = work.blocks_of(params, row);
    kv_head = of_row / blocks;
    const int64_t first = (work.blocks[row] + of_row % blocks) * kBlockKeys;
    end_of_row = keys_of_query(params, row, params.queries - 1).end;
    block = {first, std::min(first + kBlockKeys, end_of_row)};
  }

  // Positions that query i reads, counted from the block's first.
  KeyRange keys_of(int64_t i) const {
    const KeyRange keys = keys_of_query(params, row, i).within(block);
    return {keys.begin - block.begin, keys.end - block.begin};
  }

  // What is read kAheadBytes after row `at` of the block's keys, or of its values: the values come
  // after the keys, and the keys of the next block after them.
  Ahead ahead_of_keys(int64_t at) const {
    at += rows_ahead(params.size);
    if (at < block.size()) return rows(params.keys, params.size, block.begin + at);
    return rows(params.values, params.value_size, block.begin + at - block.size());
  }
  Ahead ahead_of_values(int64_t at) const {
    at += rows_ahead(params.value_size);
    if (at < block.size()) return rows(params.values, params.value_size, block.begin + at);
    return rows(params.keys, params.size, block.begin + at);
  }

  static int64_t rows_ahead(int64_t size) {
    return std::max<int64_t>(1, kAheadBytes / (size * sizeof(T)) / kPart) * kPart;
  }
  Ahead rows(const HeadsView& view, int64_t size, int64_t position) const {
    if (position >= end_of_row) return {};
    return {reinterpret_cast<const char*>(at(view, kv_head, position)),
            static_cast<int64_t>(view.token * sizeof(T)), static_cast<int64_t>(size * sizeof(T))};
  }

  const T* at(const HeadsView& view, int64_t head, int64_t token) const {
    return static_cast<const T*>(view.data) + row * view.row + head * view.head +
           token * view.token;
  }
};
