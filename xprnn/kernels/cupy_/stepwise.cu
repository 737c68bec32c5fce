// The scan step by step: between two launches cuBLAS multiplies by W_hh. One thread is one element.
#include "projected.cuh"

// x (B, elements): what the next product sees; null where the pass itself writes that, backward into `da`.
template <class Run> __global__ void begin(const __grid_constant__ Run run, typename Run::S *x) {
  const I i = blockIdx.x * (I)blockDim.x + threadIdx.x;
  const I width = run.elements(Run::phases - 1);
  if (i >= run.B * width) return;
  typename Run::F next[Run::G];
  run.begin(i / width, i % width, next);
  if (x) x[i] = (typename Run::S)next[0];
}

// sums (B, sums(phase)*elements): what the product gives. x as above.
template <class Run, int phase>
__global__ void step(const __grid_constant__ Run run, I t, const typename Run::F *sums, typename Run::S *x) {
  const I i = blockIdx.x * (I)blockDim.x + threadIdx.x;
  const I width = run.elements(phase);
  if (i >= run.B * width) return;
  const I b = i / width, j = i % width;
  typename Run::F sum[Run::sums(phase)], next[Run::G];
  for (int g = 0; g < Run::sums(phase); ++g) sum[g] = sums[(b * Run::sums(phase) + g) * width + j];
  run.template step<phase>(t, b, j, sum, next);
  if (x) x[i] = (typename Run::S)next[0];
}

#ifndef XPRNN_ONE  // a compiler that asks for no instance in particular gets all of them, to be checked
#define XPRNN_STEP(phase, ...) \
  template __global__ void step<__VA_ARGS__, phase>( \
      const __grid_constant__ __VA_ARGS__, I, const __VA_ARGS__::F *, __VA_ARGS__::S *);
#define XPRNN_INSTANCES(...) \
  template __global__ void begin<__VA_ARGS__>(const __grid_constant__ __VA_ARGS__, __VA_ARGS__::S *); \
  XPRNN_STEP((__VA_ARGS__::phases - 1), __VA_ARGS__)
#include "instances.cuh"
#undef XPRNN_INSTANCES
#define XPRNN_INSTANCES(...) XPRNN_STEP(0, __VA_ARGS__)
XPRNN_REALS(Forward, GRUBefore<>) XPRNN_INSTANCES(Forward<GRUBefore<>, __half>)
XPRNN_REALS(Backward, GRUBefore<>) XPRNN_INSTANCES(Backward<GRUBefore<>, __half>)
XPRNN_REALS(ProjectedForward, LSTM<>)
XPRNN_REALS(ProjectedBackward, LSTM<>)
#undef XPRNN_INSTANCES
#define XPRNN_INSTANCES(...) XPRNN_STEP(1, __VA_ARGS__)
XPRNN_REALS(ProjectedForward, LSTM<>)
XPRNN_REALS(ProjectedBackward, LSTM<>)
#endif
