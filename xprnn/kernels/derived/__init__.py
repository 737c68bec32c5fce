"""From a traced cell to kernels: the trace of a step, the program that it is cut into, and what runs programs.

The cell's methods run once with symbolic arrays (`xprnn.trace`), and what they do to the units of a row becomes a graph
(`step_trace.py`). Units of a row meet in products with a matrix and in sums over the row alone. So all nodes between
two of these are one loop over units, in which each operation is one instruction on a vector (`schedule.py`): a step is
as many loops as it has products, and one more. What a later loop needs is stored anyway, computed again if that is
cheap, or spilled.

The forward step of a plain LSTM is this program, printed by `program.listing`:

    for each of H units:
        v0 = prev0[0]  # h_{t-1}
        operand0[0] = v0
        result0[0] = 0
        result0[1] = 0
        result0[2] = 0
        result0[3] = 0
    result0 += operand0 @ W_hh.T  # W_hh h_{t-1}
    for each of H units:
        v1 = a[3]
        v2 = p_b_hh[3]
        v3 = result0[3]
        v4 = prev1[0]  # c_{t-1}
        v5 = a[1]
        v6 = p_b_hh[1]
        v7 = result0[1]
        v8 = a[0]  # W_ih x_t + b_ih, of the input gate
        v9 = p_b_hh[0]
        v10 = result0[0]
        v11 = a[2]
        v12 = p_b_hh[2]
        v13 = result0[2]
        v14 = add(v9, v10)
        v15 = add(v6, v7)
        v16 = add(v12, v13)
        v17 = add(v2, v3)
        v18 = add(v8, v14)
        v19 = add(v5, v15)
        v20 = add(v11, v16)
        v21 = add(v1, v17)
        v22 = sigmoid(v18)  # i_t
        v23 = tanh(v20)  # g_t
        v24 = sigmoid(v19)  # f_t
        v25 = mul(v4, v24)  # f_t c_{t-1}
        v26 = mul(v22, v23)  # i_t g_t
        v27 = add(v25, v26)  # c_t
        v28 = sigmoid(v21)  # o_t
        v29 = tanh(v27)
        v30 = mul(v28, v29)  # h_t = o_t tanh(c_t)
        state0[0] = v30
        state1[0] = v27
        cache0[0] = v22
        cache1[0] = v24
        cache2[0] = v23
        cache3[0] = v28

The machine code of a pass (`native/`) is a loop over time around it, with every `for` as a loop in vectors and every
`@` as a call of a product with packed weights, which reads h where it lies and needs no zeros to begin with
(`shortcuts.py`); the NumPy code (`numpy_/`) is calls of ufuncs, of blocks of steps where nothing depends on the step
before.
"""
