"""The layers of bench.py written for JAX as its users would: `jax.jit` over `lax.scan`, gradients by `jax.grad`.

Weights lie as the products want them, (I, G*H) and (H, G*H); the inputs' share of all steps is one product outside the
scan; parameters, and the state of a stream, are donated: their memory is used again. All is compiled when it is made.
"""

import jax
import jax.numpy as jnp

from benchmarks import jobs

jax.config.update("jax_cpu_enable_async_dispatch", False)
"""Every call is waited for: to hand it to another thread would cost small ones as much again."""


def rnn(state, a, W, b_n):
    """Run Elman's step."""
    return (jnp.tanh(a + state[0] @ W),)


def gru(state, a, W, b_n):
    """Run GRU's step, the reset gate behind the product."""
    (h,), H = state, W.shape[0]
    u = h @ W
    r, z = jnp.split(jax.nn.sigmoid(a[:, : 2 * H] + u[:, : 2 * H]), 2, axis=-1)
    n = jnp.tanh(a[:, 2 * H :] + r * (u[:, 2 * H :] + b_n))
    return (n + z * (h - n),)


def lstm(state, a, W, b_n):
    """Run LSTM's step, gates in the order i, f, g, o."""
    h, c = state
    i, f, g, o = jnp.split(a + h @ W, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


STEPS = {"RNN": rnn, "GRU": gru, "LSTM": lstm}


def read(start):
    """Return the parameters, each in memory of its own."""
    p, readout = start.params["0"]["l0"], start.params["1"]
    turned = {"W_ih": p["W_ih"].T, "W_hh": p["W_hh"].T, "b_ih": p["b_ih"], "b_hh": p["b_hh"]}
    return {key: jnp.array(a) for key, a in (turned | {"W": readout["W"].T, "b": readout["b"]}).items()}


def zeros(job, like):
    """Return the state that a sequence begins in."""
    return (jnp.zeros((job.shape[1], job.shape[3]), like.dtype),) * (2 if job.cell == "LSTM" else 1)


def share(job, p, x):
    """Return the inputs' share, with all biases that do not stand behind the reset gate, and that one."""
    n = 2 * job.shape[3] if job.cell == "GRU" else p["b_hh"].shape[0]
    b_hh = jnp.concatenate([p["b_hh"][:n], jnp.zeros_like(p["b_hh"][n:])])
    return x @ p["W_ih"] + (p["b_ih"] + b_hh), p["b_hh"][n:]


def forward(job, p, x, unroll):
    """Run a layer over time."""
    a, b_n = share(job, p, x)

    def step(state, a_t):
        state = STEPS[job.cell](state, a_t, p["W_hh"], b_n)
        return state, state[0]

    state, y = jax.lax.scan(step, zeros(job, x), a, unroll=unroll)
    return y, state


def training(job, start, unroll):
    """Return a training step."""
    x, target, held = jnp.array(start.x), jnp.array(start.target), [read(start)]

    def loss_of(p, x, target):
        y, _ = forward(job, p, x, unroll)
        return 0.5 * jnp.sum((y @ p["W"] + p["b"] - target) ** 2)

    def update(p, x, target):
        loss, grads = jax.value_and_grad(loss_of)(p, x, target)
        return jax.tree.map(lambda a, g: a - jobs.LR * g, p, grads), loss

    run = jax.jit(update, donate_argnums=0).lower(*held, x, target).compile()

    def step():
        held[0], loss = jax.block_until_ready(run(held[0], x, target))
        return loss

    return step


def inference(job, start, unroll):
    """Return a forward pass."""
    x, p = jnp.array(start.x), read(start)
    run = jax.jit(lambda p, x: forward(job, p, x, unroll)).lower(p, x).compile()
    return lambda: jax.block_until_ready(run(p, x))


def stream(job, start):
    """Return a step that carries its state; the parameters are part of what is compiled."""
    x, p, held = jnp.array(start.x), read(start), [None]
    held[0] = tuple(jnp.array(s) for s in zeros(job, x))  # donated, and so no two may be one

    def move(state, x):
        a, b_n = share(job, p, x)
        return STEPS[job.cell](state, a, p["W_hh"], b_n)

    run = jax.jit(move, donate_argnums=0).lower(held[0], x).compile()

    def step():
        held[0] = jax.block_until_ready(run(held[0], x))
        return held[0]

    return step
