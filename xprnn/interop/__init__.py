"""Other libraries' weights and operators: the only place that knows their names and gate orders.

`xprnn.interop.torch` for PyTorch's state dicts, `xprnn.interop.onnx` for the operators RNN, GRU and LSTM.
"""
