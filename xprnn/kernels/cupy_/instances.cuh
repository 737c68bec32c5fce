// XPRNN_INSTANCES for both passes of the cells as most use them, in every type for one, and of cells with options that
// take the most registers: gates that keep their slopes, and more numbers per unit.
#pragma once
#define XPRNN_REALS(Pass, ...) XPRNN_INSTANCES(Pass<__VA_ARGS__, float>) XPRNN_INSTANCES(Pass<__VA_ARGS__, double>)

typedef Clipped<HardSigmoid<0x3fc999999999999a, 0x3fe0000000000000>, 0x4008000000000000> HardGate;  // 0.2 x + 0.5, 3
typedef LSTM<HardGate, Tanh, Softplus, true, false, Bounded<0x3fe0000000000000>> FullLSTM;
typedef LSTM<Sigmoid, Elu<0x3ff0000000000000>, Tanh, true, true> CoupledLSTM;
typedef GRUAfter<HardGate, LeakyRelu<(Bits)0xbff0000000000000>> FullGRU;

#define XPRNN_CELLS(Pass) \
  XPRNN_REALS(Pass, Elman<>) XPRNN_INSTANCES(Pass<Elman<Relu>, float>) \
  XPRNN_REALS(Pass, LSTM<>) XPRNN_INSTANCES(Pass<LSTM<>, __half>) XPRNN_INSTANCES(Pass<LSTM<>, __nv_bfloat16>) \
  XPRNN_REALS(Pass, FullLSTM) XPRNN_INSTANCES(Pass<CoupledLSTM, float>) \
  XPRNN_REALS(Pass, GRUAfter<>) XPRNN_INSTANCES(Pass<FullGRU, double>) \
  XPRNN_REALS(Pass, GRUBefore<>) XPRNN_INSTANCES(Pass<GRUBefore<>, __half>)
XPRNN_CELLS(Forward)
XPRNN_CELLS(Backward)
