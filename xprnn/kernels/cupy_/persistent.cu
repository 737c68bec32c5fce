// The whole scan in one launch, both directions side by side.
//
// A block owns some hidden units and a tile of the batch for all T steps. It holds their share of W_hh in shared memory:
// forward the units' rows of all gates, backward their columns. In a step it multiplies that share by what the elements
// of its rows sent, and runs its own elements (element.cuh). Where all units fit into one block, what is sent stays
// in shared memory; else (`spread`) it goes through global memory, and the grid waits for itself once per phase.
//
// Both buffers of what is sent are used in turn, so one barrier per phase is enough. In them a pack of `rows` rows is
// one vector, so that one load of W_hh and one of the pack feed width*rows multiply-adds. `lanes` neighbouring threads
// share the sum over the depth of a product and add up by shuffles, and where they are more than a warp through shared
// memory; in W_hh's share they are neighbours too, so that a warp reads without bank conflicts.
#include <cooperative_groups.h>
#include "element.cuh"

constexpr int THREADS = 256;  // at most, per block; as in persistent.py; with more, registers would not do
constexpr int rows = 4;       // of a pack, as there: one load of W_hh serves them all

constexpr __device__ int alignment(int bytes, int itemsize) {
  return bytes % 16 == 0 ? 16 : bytes == 8 || bytes == 4 || bytes == 2 ? bytes : itemsize;
}
template <class E, int n> struct alignas(alignment(n * sizeof(E), sizeof(E))) Pack { E v[n]; };

template <class F> struct Vector { typedef float4 type; };  // sixteen bytes of F
template <> struct Vector<double> { typedef double2 type; };

struct Tiling {
  int units, groups;  // per block: hidden units, and packs of rows
  int chunk;          // packs of rows that are multiplied at a time
  int lanes;          // threads that share a sum, a power of two
};

// The product of a phase for `units` units at once, a slot: `width` numbers, at `most` so many, from the `depth` numbers
// that a row sent.
template <class Run> struct Product;

template <class Cell, class S> struct Product<Forward<Cell, S>> {
  typedef Forward<Cell, S> Run;
  static constexpr int units = 1, most = Run::phases == 2 ? 2 : Run::G;
  static constexpr __device__ int width(int phase) { return Run::sums(phase); }
  static __device__ int depth(const Run &run, int phase) { return run.H; }
  static __device__ int widest(const Run &run) { return run.H; }
  static __device__ I time(const Run &run, I s) { return s; }
  static __device__ S weight(const Run &run, int phase, I j, int v, I k) {
    return run.W[((Run::first_gate(phase) + v) * run.H + j) * run.H + k];
  }
};

template <class Cell, class S> struct Product<Backward<Cell, S>> {
  typedef Backward<Cell, S> Run;
  static constexpr int units = sizeof(S) == 8 ? 2 : 4, most = units;
  static constexpr __device__ int width(int phase) { return units; }
  static __device__ int depth(const Run &run, int phase) { return Run::sends(phase) * run.H; }
  static __device__ int widest(const Run &run) { return Run::sends(Run::phases - 1) * run.H; }
  static __device__ I time(const Run &run, I s) { return run.T - 1 - s; }
  static __device__ S weight(const Run &run, int phase, I j, int v, I k) {
    return j + v < run.H ? run.W[(Run::first_gate(phase) * run.H + k) * run.H + j + v] : S(0);
  }
};

template <class Run, bool spread> struct Block {
  typedef typename Run::S S;
  typedef typename Run::F F;
  typedef Product<Run> P;
  const Run &run;
  const Tiling tile;
  const int first_unit, units, slots;  // of the block; `P::units` units are a slot
  const int first_group, groups;
  const int lane, item0, items_at_once;
  const int widest;
  S *W[2];    // per phase, in shared memory
  F *sent;    // what elements sent, two buffers in turn: in shared memory, or `spread` in global memory
  I size;     // of a buffer
  F *staged;  // shared memory for a chunk of it, where `spread`
  F *parts;   // shared memory for the parts of sums that more than a warp shares

  __device__ Block(const Run &run, const Tiling &tile, F *exchange)
      : run(run), tile(tile), first_unit(blockIdx.x * tile.units), units(min((I)tile.units, run.H - first_unit)),
        slots((tile.units + P::units - 1) / P::units), first_group(blockIdx.y * tile.groups),
        groups(min((I)tile.groups, (run.B + rows - 1) / rows - first_group)),
        lane(threadIdx.x % tile.lanes), item0(threadIdx.x / tile.lanes), items_at_once(blockDim.x / tile.lanes),
        widest(P::widest(run)) {
    extern __shared__ __align__(16) char shared[];
    char *free = shared;
    for (int phase = 0; phase < Run::phases; ++phase) {
      W[phase] = (S *)free;
      free += ((I)slots * padded(phase) * P::width(phase) * sizeof(S) + 15) / 16 * 16;
    }
    parts = (F *)free;
    if (tile.lanes > 32) free += blockDim.x / 32 * P::most * rows * sizeof(F);
    staged = (F *)free;
    size = (I)(spread ? gridDim.y : 1) * tile.groups * widest * rows;
    sent = spread ? exchange + blockIdx.z * 2 * size : staged;
  }

  __device__ int padded(int phase) const { return (P::depth(run, phase) + tile.lanes - 1) / tile.lanes * tile.lanes; }
  __device__ void barrier() const {
    if constexpr (spread) cooperative_groups::this_grid().sync();
    else __syncthreads();
  }

  template <int phase> __device__ void load_weights() const {
    const int depth = P::depth(run, phase);
    for (int i = threadIdx.x; i < slots * depth; i += blockDim.x) {  // in the order in which W_hh lies in memory
      const int slot = P::units > 1 ? i % slots : i / depth, k = P::units > 1 ? i / slots : i % depth;
      const I j = first_unit + slot * P::units;
      S *const at = W[phase] + ((k / tile.lanes * slots + slot) * tile.lanes + k % tile.lanes) * P::width(phase);
      for (int v = 0; v < P::width(phase); ++v) at[v] = j < run.H ? P::weight(run, phase, j, v, k) : S(0);
    }
  }

  // What element (row of the tile, j) sends; `to` has the numbers of one gate H apart.
  template <int count> __device__ void send(const F *next, int row, int j, F *to) const {
    const I pack = (spread ? first_group : 0) + row / rows;
    for (int g = 0; g < count; ++g) {
      F *const at = to + (pack * widest + g * run.H + j) * rows + row % rows;
      if constexpr (spread) __stcg(at, next[g]);
      else *at = next[g];
    }
  }

  __device__ void begin() const {
    for (I i = threadIdx.x; i < (I)units * groups * rows; i += blockDim.x) {
      const int row = i / units, j = first_unit + i % units;
      const I b = (I)first_group * rows + row;
      if (b >= run.B) continue;
      F next[Run::G];
      run.begin(b, j, next);
      send<Run::sends(0)>(next, row, j, sent);
    }
    barrier();
  }

  // Copy the chunk's packs into shared memory. What other blocks wrote is read past the first-level cache, which may be
  // stale; in vectors of 16 bytes, several on their way at a time, for each takes hundreds of cycles.
  template <int phase> __device__ const F *stage(const F *from, int chunk, int here) const {
    typedef typename Vector<F>::type V;
    constexpr int at_once = 8, each = 16 / sizeof(F);
    const int n = P::depth(run, phase) * rows / each;
    for (int g = 0; g < here; ++g) {
      const V *const source = (const V *)(from + (I)(first_group + chunk + g) * widest * rows);
      V *const to = (V *)(staged + g * widest * rows);
      for (int first = threadIdx.x; first < n; first += at_once * blockDim.x) {
        V v[at_once];
        for (int u = 0; u < at_once; ++u)
          if (first + u * blockDim.x < n) v[u] = __ldcg(source + first + u * blockDim.x);
        for (int u = 0; u < at_once; ++u)
          if (first + u * blockDim.x < n) to[first + u * blockDim.x] = v[u];
      }
    }
    __syncthreads();
    return staged;
  }

  template <int phase> __device__ void multiply(int slot, const F *x, F (&sum)[P::width(phase)][rows]) const {
    constexpr int width = P::width(phase);
    const Pack<S, width> *w = (const Pack<S, width> *)W[phase] + slot * tile.lanes + lane;
    const Pack<F, rows> *packs = (const Pack<F, rows> *)x;
    for (int v = 0; v < width; ++v)
      for (int r = 0; r < rows; ++r) sum[v][r] = F(0);
    const int depth = P::depth(run, phase), stride = slots * tile.lanes;
    for (int k = lane; k < depth; k += tile.lanes, w += stride) {
      const Pack<S, width> w_k = *w;
      const Pack<F, rows> x_k = packs[k];
      for (int v = 0; v < width; ++v)
        for (int r = 0; r < rows; ++r) sum[v][r] += F(w_k.v[v]) * x_k.v[r];
    }
    for (int apart = 1; apart < tile.lanes && apart < 32; apart *= 2)
      for (int v = 0; v < width; ++v)
        for (int r = 0; r < rows; ++r) sum[v][r] += __shfl_xor_sync(0xffffffffu, sum[v][r], apart);
  }

  // Leave a warp's part of a sum where the other warps of the item find it.
  template <int phase> __device__ void leave(F (&sum)[P::width(phase)][rows]) const {
    if (threadIdx.x % 32) return;
    F *const own = parts + threadIdx.x / 32 * P::most * rows;
    for (int v = 0; v < P::width(phase); ++v)
      for (int r = 0; r < rows; ++r) own[v * rows + r] = sum[v][r];
  }

  // The sum of an item's unit and row: in every lane of a warp, picked by comparison, so that sums stay in registers; or
  // in parts.
  template <int phase> __device__ void pick(int e, F (&sum)[P::width(phase)][rows], F *mine) const {
    constexpr int sums = P::width(phase) / P::units;
    for (int v = 0; v < P::width(phase); ++v)
      for (int r = 0; r < rows; ++r)
        if (v / sums * rows + r == e) mine[v % sums] = sum[v][r];
    if (tile.lanes <= 32) return;
    const F *const first = parts + item0 * (tile.lanes / 32) * P::most * rows;
    for (int i = 0; i < sums; ++i) {
      mine[i] = F(0);
      for (int w = 0; w < tile.lanes / 32; ++w)
        mine[i] += first[w * P::most * rows + ((e / rows) * sums + i) * rows + e % rows];
    }
  }

  // Run the elements of an item, its lanes in turn.
  template <int phase> __device__ void finish(I t, int slot, int group, F (&sum)[P::width(phase)][rows], F *to) const {
    for (int e = lane; e < P::units * rows; e += tile.lanes) {
      const int row = group * rows + e % rows, j = first_unit + slot * P::units + e / rows;
      const I b = (I)first_group * rows + row;
      if (b >= run.B || j >= first_unit + units) continue;
      F mine[P::width(phase) / P::units], next[Run::G];
      pick<phase>(e, sum, mine);
      if constexpr (phase == 0) run.prefetch_next(t, b, j);
      run.template step<phase>(t, b, j, mine, next);
      send<Run::sends((phase + 1) % Run::phases)>(next, row, j, to);
    }
  }

  template <int phase> __device__ void advance(I t, I n) const {
    const F *const from = sent + n % 2 * size;
    F *const to = sent + (n + 1) % 2 * size;
    for (int chunk = 0; chunk < groups; chunk += tile.chunk) {
      const int here = min(tile.chunk, groups - chunk), items = slots * here;
      const F *const x = spread ? stage<phase>(from, chunk, here) : from + chunk * widest * rows;
      for (int first = 0; first < items; first += items_at_once) {  // the same number of rounds for all threads
        const int item = first + item0, slot = item % slots, g = item / slots;
        const bool busy = first + (int)(threadIdx.x & ~31u) / tile.lanes < items;  // the same for all threads of a warp
        F sum[P::width(phase)][rows];
        if (busy) multiply<phase>(slot, x + min(g, here - 1) * widest * rows, sum);
        if (tile.lanes > 32) {
          if (busy) leave<phase>(sum);
          __syncthreads();
        }
        if (item < items) finish<phase>(t, slot, chunk + g, sum, to);
        if (tile.lanes > 32) __syncthreads();  // the next round's parts take the place of these
      }
      if (spread) __syncthreads();  // the next chunk takes the staged one's place
    }
    barrier();
  }
};

template <class Run> struct Both {
  Run run[2];  // per direction
};

template <class Run, bool spread>
__global__ void __launch_bounds__(THREADS, 1)
persistent(const __grid_constant__ Both<Run> both, const Tiling tile, typename Run::F *exchange) {
  const Run &run = both.run[blockIdx.z];
  const Block<Run, spread> block(run, tile, exchange);
  block.template load_weights<0>();
  if constexpr (Run::phases == 2) block.template load_weights<1>();
  block.begin();
  for (I s = 0, n = 0; s < run.T; ++s) {
    const I t = Product<Run>::time(run, s);
    block.template advance<0>(t, n++);
    if constexpr (Run::phases == 2) block.template advance<1>(t, n++);
  }
}

#ifndef XPRNN_ONE  // a compiler that asks for no instance in particular gets all of them, to be checked
#define XPRNN_INSTANCE(spread, ...) \
  template __global__ void persistent<__VA_ARGS__, spread>( \
      const __grid_constant__ Both<__VA_ARGS__>, const Tiling, __VA_ARGS__::F *);
#define XPRNN_INSTANCES(...) XPRNN_INSTANCE(false, __VA_ARGS__) XPRNN_INSTANCE(true, __VA_ARGS__)
#include "instances.cuh"
#endif
