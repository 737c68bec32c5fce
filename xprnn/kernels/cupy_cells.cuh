// The equations of xprnn/cells/ for one unit of one row of a batch, and their slopes: written once, used by the
// stepwise and by the persistent kernels. Names, gate order and signs are the reference's.
//
// A cell has `gates` G, `states` N (h first), `kept` numbers that its backward pass needs, and `phases` 1 or 2: GRU
// with its reset gate before the product runs one product for r and z and then, when r is known, one for n.
// `cut(p)` is the first gate of phase p of the forward pass, `cut(phases)` is G; the backward pass takes the phases in
// reverse. a is the input's share of the pre-activations, u the recurrent one with its bias, d the factor on the
// candidate, k what is kept.
#pragma once

template <class F> __device__ F sigmoid(F x) { return F(1) / (F(1) + exp(-x)); }
template <class F> __device__ F sigmoid_slope(F y) { return y * (F(1) - y); }
template <class F> __device__ F tanh_slope(F y) { return F(1) - y * y; }

struct Tanh {
  template <class F> static __device__ F value(F x) { return tanh(x); }
  template <class F> static __device__ F slope(F y) { return tanh_slope(y); }
};

struct Relu {  // NaN stays NaN, and has the slope 1
  template <class F> static __device__ F value(F x) { return x <= F(0) ? F(0) : x; }
  template <class F> static __device__ F slope(F y) { return y <= F(0) ? F(0) : F(1); }
};

template <class Activation> struct Elman {
  static constexpr int gates = 1, states = 1, kept = 1, phases = 1;
  static constexpr __device__ int cut(int p) { return p; }

  template <class F> static __device__ void forward(const F *a, const F *u, const F *prev, F d, F *s, F *k) {
    k[0] = Activation::value(a[0] + u[0]);
    s[0] = d * k[0];
  }
  template <class F>
  static __device__ void backward(const F *ds, const F *k, const F *prev, const F *s, F d, F *da, F *du, F *dprev) {
    da[0] = du[0] = ds[0] * d * Activation::slope(k[0]);
    dprev[0] = F(0);
  }
};

struct LSTM {
  static constexpr int gates = 4, states = 2, kept = 4, phases = 1;
  static constexpr __device__ int cut(int p) { return p * gates; }

  template <class F> static __device__ void forward(const F *a, const F *u, const F *prev, F d, F *s, F *k) {
    const F i = sigmoid(a[0] + u[0]), f = sigmoid(a[1] + u[1]), g = tanh(a[2] + u[2]), o = sigmoid(a[3] + u[3]);
    const F c = f * prev[1] + i * (d * g);
    s[0] = o * tanh(c);
    s[1] = c;
    k[0] = i, k[1] = f, k[2] = g, k[3] = o;
  }
  template <class F>
  static __device__ void backward(const F *ds, const F *k, const F *prev, const F *s, F d, F *da, F *du, F *dprev) {
    const F i = k[0], f = k[1], g = k[2], o = k[3], tanh_c = tanh(s[1]);
    const F dh = ds[0], dc = ds[1] + dh * o * tanh_slope(tanh_c);
    da[0] = du[0] = dc * (d * g) * sigmoid_slope(i);
    da[1] = du[1] = dc * prev[1] * sigmoid_slope(f);
    da[2] = du[2] = dc * (d * i) * tanh_slope(g);
    da[3] = du[3] = dh * tanh_c * sigmoid_slope(o);
    dprev[0] = F(0);
    dprev[1] = dc * f;
  }
};

struct GRUAfter {  // n = tanh(a_n + r u_n)
  static constexpr int gates = 3, states = 1, kept = 4, phases = 1;
  static constexpr __device__ int cut(int p) { return p * gates; }

  template <class F> static __device__ void forward(const F *a, const F *u, const F *prev, F d, F *s, F *k) {
    const F r = sigmoid(a[0] + u[0]), z = sigmoid(a[1] + u[1]), n = tanh(a[2] + r * u[2]);
    s[0] = (F(1) - z) * (d * n) + z * prev[0];
    k[0] = r, k[1] = z, k[2] = n, k[3] = u[2];
  }
  template <class F>
  static __device__ void backward(const F *ds, const F *k, const F *prev, const F *s, F d, F *da, F *du, F *dprev) {
    const F r = k[0], z = k[1], n = k[2], u_n = k[3], dh = ds[0];
    da[2] = dh * (F(1) - z) * d * tanh_slope(n);
    da[1] = du[1] = dh * (prev[0] - d * n) * sigmoid_slope(z);
    da[0] = du[0] = da[2] * u_n * sigmoid_slope(r);
    du[2] = da[2] * r;
    dprev[0] = dh * z;
  }
};

struct GRUBefore {  // n = tanh(a_n + W_hn (r h) + b_hn)
  static constexpr int gates = 3, states = 1, kept = 3, phases = 2;
  static constexpr __device__ int cut(int p) { return p + (p > 0); }

  // The first phase: r and z; returns r, by which h is multiplied before the second product.
  template <class F> static __device__ F forward_first(const F *a, const F *u, F *k) {
    k[0] = sigmoid(a[0] + u[0]);
    k[1] = sigmoid(a[1] + u[1]);
    return k[0];
  }
  template <class F> static __device__ void forward(const F *a, const F *u, const F *prev, F d, F *s, F *k) {
    const F z = k[1], n = tanh(a[2] + u[2]);
    s[0] = (F(1) - z) * (d * n) + z * prev[0];
    k[2] = n;
  }
  template <class F>
  static __device__ void backward(const F *ds, const F *k, const F *prev, const F *s, F d, F *da, F *du, F *dprev) {
    const F z = k[1], n = k[2], dh = ds[0];
    da[2] = du[2] = dh * (F(1) - z) * d * tanh_slope(n);
    da[1] = du[1] = dh * (prev[0] - d * n) * sigmoid_slope(z);
    dprev[0] = dh * z;
  }
  // After the first product, which gives drh, the gradient at r h: returns da_r and adds to dprev.
  template <class F> static __device__ F backward_first(F drh, const F *k, const F *prev, F *dprev) {
    dprev[0] += drh * k[0];
    return drh * prev[0] * sigmoid_slope(k[0]);
  }
};
