// The scan step by step: between two launches cuBLAS multiplies by W_hh. One thread is one element.
#include "cupy_element.cuh"

// x (B, H): what W_hh sees in the first step. Forward only: the backward pass begins with its gradients in `da`.
template <class Run> __global__ void begin(const __grid_constant__ Run run, typename Run::S *x) {
  const I i = blockIdx.x * (I)blockDim.x + threadIdx.x;
  if (i >= run.B * run.H) return;
  typename Run::F next[Run::G];
  run.begin(i / run.H, i % run.H, next);
  if (x) x[i] = (typename Run::S)next[0];
}

// sums (B, sums(phase)*H): what the product gives. x as above.
template <class Run, int phase>
__global__ void step(const __grid_constant__ Run run, I t, const typename Run::F *sums, typename Run::S *x) {
  const I i = blockIdx.x * (I)blockDim.x + threadIdx.x;
  if (i >= run.B * run.H) return;
  const I b = i / run.H, j = i % run.H;
  typename Run::F sum[Run::sums(phase)], next[Run::G];
  for (int g = 0; g < Run::sums(phase); ++g) sum[g] = sums[(b * Run::sums(phase) + g) * run.H + j];
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
#include "cupy_instances.cuh"
#undef XPRNN_INSTANCES
#define XPRNN_INSTANCES(...) XPRNN_STEP(0, __VA_ARGS__)
XPRNN_REALS(Forward, GRUBefore<>) XPRNN_INSTANCES(Forward<GRUBefore<>, __half>)
XPRNN_REALS(Backward, GRUBefore<>) XPRNN_INSTANCES(Backward<GRUBefore<>, __half>)
#endif
