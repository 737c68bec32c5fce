"""From a traced cell to kernels: the trace of a step, the program that it is cut into, and what runs programs.

The cell's methods run once with symbolic arrays (`xprnn.trace`), and what they do to the units of a row becomes a graph
(`step_trace.py`). Units of a row meet in products with a matrix and in sums over the row alone. So all nodes between
two of these are one loop over units, in which each operation is one instruction on a vector (`schedule.py`): a step is
as many loops as it has products, and one more. What a later loop needs is stored anyway, computed again if that is
cheap, or spilled.

The forward step of a plain LSTM is this program, printed by `program.listing`:

    for each of H units:
        v0 = prev0[0]  # h_{t-1}
        v1 = p_b_hh[0]
        v2 = a[0]  # W_ih x_t + b_ih, of the input gate
        v3 = p_b_hh[1]
        v4 = a[1]
        v5 = p_b_hh[2]
        v6 = a[2]
        v7 = p_b_hh[3]
        v8 = a[3]
        v9 = add(v1, v2)
        v10 = add(v3, v4)
        v11 = add(v5, v6)
        v12 = add(v7, v8)
        operand0[0] = v0
        result0[0] = v9
        result0[1] = v10
        result0[2] = v11
        result0[3] = v12
    result0 += operand0 @ W_hh.T  # W_hh h_{t-1}
    for each of H units:
        v13 = result0[3]
        v14 = prev1[0]  # c_{t-1}
        v15 = result0[1]
        v16 = result0[0]
        v17 = result0[2]
        v18 = sigmoid(v16)  # i_t
        v19 = tanh(v17)  # g_t
        v20 = sigmoid(v15)  # f_t
        v21 = mul(v14, v20)  # f_t c_{t-1}
        v22 = mul(v18, v19)  # i_t g_t
        v23 = add(v21, v22)  # c_t
        v24 = sigmoid(v13)  # o_t
        v25 = tanh(v23)
        v26 = mul(v24, v25)  # h_t = o_t tanh(c_t)
        state0[0] = v26
        state1[0] = v23
        cache0[0] = v18
        cache1[0] = v20
        cache2[0] = v19
        cache3[0] = v24

The machine code of a pass (`native/`) is a loop over time around it, with every `for` as a loop in vectors and every
`@` as a call of a product with packed weights; the NumPy code (`numpy_/`) is calls of ufuncs, of blocks of steps where
nothing depends on the step before.
"""
