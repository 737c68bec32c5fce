// XPRNN_INSTANCES for every pass, cell and type.
#pragma once
#define XPRNN_TYPES(Pass, Cell) \
  XPRNN_INSTANCES(Pass<Cell, float>) XPRNN_INSTANCES(Pass<Cell, double>) \
  XPRNN_INSTANCES(Pass<Cell, __half>) XPRNN_INSTANCES(Pass<Cell, __nv_bfloat16>)
#define XPRNN_CELLS(Pass) \
  XPRNN_TYPES(Pass, Elman<Tanh>) XPRNN_TYPES(Pass, Elman<Relu>) XPRNN_TYPES(Pass, LSTM) \
  XPRNN_TYPES(Pass, GRUAfter) XPRNN_TYPES(Pass, GRUBefore)
XPRNN_CELLS(Forward)
XPRNN_CELLS(Backward)
