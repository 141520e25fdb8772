r"""
2. The dense layer / 全結合層
=============================

| After this lesson you can derive dW, db and dx of y = xW + b in three ways (from the definition of
  the derivative, by index, by shapes), name what the third way cannot see, and say where the 1/B of
  a batch belongs.
| この講を終えると、全結合層y = xW + bのdW・db・dxを、微分の定義、添字、形状合わせの3通りで
  導けます。形状合わせでは何が決まらないか、バッチの1/Bをどこに置くかも説明できます。

| Needs lesson 1. Runs in about 1 s on two cores.
| 前提は第1講。実行時間は約1秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - 全結合層、アフィン変換
     - fully connected (dense) layer, affine map
   * - 順伝播、逆伝播、誤差逆伝播法
     - forward pass, backward pass, backpropagation
   * - 連鎖律
     - chain rule
   * - ミニバッチ、ブロードキャスト
     - mini-batch, broadcasting
   * - 正規方程式
     - normal equations
"""

# %%
# The question / 問題
# -------------------
# A dense layer takes a batch x (B, I), B examples with I inputs each, and returns y (B, O):
#
# .. math:: y = x W + b, \qquad W: (I, O), \quad b: (O,)
#
# Something behind the layer turns y into one number, the loss L. Backpropagation hands the layer
# dy, and wants dW, db and dx back. In all lessons dX stands for :math:`\partial L / \partial X` and
# has the shape of X: one derivative for each entry.
#
# 全結合層は、I次元の入力をB個並べたバッチx (B, I)を受け取り、y (B, O)を返します。その先の計算が
# yから1つの数、損失Lを作ります。誤差逆伝播法では、層はdyを受け取ってdW・db・dxを返します。この
# 講座では、dXと書いたら :math:`\partial L / \partial X` のことで、要素ごとに微分が1つあるので、
# 形状はXと同じです。

import itertools

import numpy as np

from scratchvae import Dense, plots
from scratchvae.datasets import mnist10k
from scratchvae.gradcheck import check_gradients, check_layer

# %%
# First way: from the definition / 方法1：定義から
# ------------------------------------------------
# The gradient of L at W is the matrix G with which a small change :math:`\delta W` changes L by
# :math:`\langle G, \delta W\rangle = \sum_{ij} G_{ij}\,\delta W_{ij}`, up to second order. Changing
# W by :math:`\delta W` changes y by exactly :math:`x\,\delta W`, and so L by
#
# .. math:: \langle dy,\; x\,\delta W \rangle = \sum_{nj} dy_{nj} \sum_i x_{ni}\,\delta W_{ij}
#           = \sum_{ij} \Bigl(\sum_n x_{ni}\, dy_{nj}\Bigr) \delta W_{ij}
#           = \langle x^\top dy,\; \delta W \rangle .
#
# So :math:`dW = x^\top dy`. Likewise :math:`\langle dy,\, \delta x\, W \rangle = \langle dy\,
# W^\top, \delta x \rangle`, so :math:`dx = dy\, W^\top`; and :math:`\delta b` is added to every row
# of y, so :math:`db_j = \sum_n dy_{nj}`.
#
# Wの勾配とは、微小な変化 :math:`\delta W` によるLの変化が、2次以上の項を除いて
# :math:`\langle G, \delta W\rangle` （要素ごとの積の総和）になる行列Gです。Wを :math:`\delta W`
# だけ動かすと、yはちょうど :math:`x\,\delta W` だけ動きます。上の式のように和の順序を入れ替えて
# :math:`\delta W` の係数を読むと :math:`dW = x^\top dy` です。同様に :math:`dx = dy\, W^\top`、また
# :math:`\delta b` はyの全行に加わるので :math:`db_j = \sum_n dy_{nj}` となります。

# %%
# Second way: by index / 方法2：添字で
# ------------------------------------
# Write one entry of y and differentiate it by each variable in it:
#
# .. math:: y_{nj} = \sum_i x_{ni} W_{ij} + b_j, \qquad
#    \frac{\partial y_{nj}}{\partial W_{ij}} = x_{ni}, \quad
#    \frac{\partial y_{nj}}{\partial b_j} = 1, \quad
#    \frac{\partial y_{nj}}{\partial x_{ni}} = W_{ij} .
#
# The chain rule sums over the entries of y that a variable reaches: :math:`W_{ij}` and :math:`b_j`
# reach column j in every row (sum over n), :math:`x_{ni}` reaches all of row n (sum over j).
#
# yの要素を1つ書き下し、そこに現れる各変数で微分します。連鎖律では、その変数が届くyの
# 要素すべてについて和を取ります。:math:`W_{ij}` と :math:`b_j` は全行の第j列に届くのでnについて、
# :math:`x_{ni}` は第n行の全体に届くのでjについての和です。


def backward_by_index(x, W, dy):
    """Return dx, dW, db: the sentence above as loops."""
    dx, dW, db = np.zeros_like(x), np.zeros_like(W), np.zeros(W.shape[1])
    for n, i, j in np.ndindex(len(x), *W.shape):
        dW[i, j] += x[n, i] * dy[n, j]
        dx[n, i] += dy[n, j] * W[i, j]
    for n, j in np.ndindex(*dy.shape):
        db[j] += dy[n, j]
    return dx, dW, db


class DenseByHand:
    """y = x W + b: the same in matrices. The forward pass keeps x, because dW needs it."""

    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        """(B, I) -> (B, O)."""
        self.x = x
        return x @ self.W + self.b

    def backward(self, dy):
        """(B, O) -> (B, I)."""
        self.dW = self.x.T @ dy
        self.db = dy.sum(axis=0)
        return dy @ self.W.T


# %%
# Proof / 検証
# ------------
# Take three different primes for B, I, O, so that no transpose fits by accident, and as loss the
# squared error to a target t, averaged over the batch. Its dy needs high-school calculus only:
#
# .. math:: L = \frac{1}{2B} \sum_{nj} (y_{nj} - t_{nj})^2, \qquad dy = (y - t) / B .
#
# B・I・Oには互いに異なる素数を選びます。転置を間違えたまま偶然に形状が合うことを防ぐためです。
# 損失は、正解tとの二乗誤差をバッチで平均したものとします。dyは高校数学の微分で求まります。


def loss(y, t):
    """Return L. Complex y is allowed, for the complex step of lesson 1."""
    return ((y - t) ** 2).sum() / (2 * len(y))


rng = np.random.default_rng(0)
x, W, b, t = (rng.normal(size=size) for size in ((5, 3), (3, 2), 2, (5, 2)))  # B, I, O = 5, 3, 2
layer = DenseByHand(W, b)
y = layer.forward(x)
dy = (y - t) / len(x)
dx = layer.backward(dy)

report = check_gradients(
    lambda v: loss(v["x"] @ v["W"] + v["b"], t),
    {"x": x, "W": W, "b": b},
    {"x": dx, "W": layer.dW, "b": layer.db},
    sizes={"B": 5, "I": 3, "O": 2},
)
print(report)
report.raise_if_wrong()
for loops, matrices in zip(backward_by_index(x, W, dy), (dx, layer.dW, layer.db), strict=True):
    assert np.allclose(loops, matrices, rtol=0, atol=1e-14)

library = Dense(3, 2, dtype=np.float64)
library.W[...], library.b[...] = W, b
assert np.allclose(library.forward(x), y, rtol=0, atol=1e-14)
assert np.allclose(library.backward(dy), dx, rtol=0, atol=1e-14)
assert np.allclose(library.dW, layer.dW, rtol=0, atol=1e-14)
assert np.allclose(library.db, layer.db, rtol=0, atol=1e-14)
check_layer(library, x).raise_if_wrong()

# %%
# Third way: by shapes, and what shapes cannot see / 方法3：形状から（形状では分からないこと）
# --------------------------------------------------------------------------------------------
# The usual shortcut: dW is a product of x and dy, either perhaps transposed, of shape (I, O). Of
# the eight ordered products only :math:`x^\top dy` has that shape if B, I and O differ. If they are
# equal all eight have it, and seven are wrong; and no shape ever shows a factor such as 1/B. Shapes
# recall a formula that was derived once; they do not derive it.
#
# よく使われるのは形状合わせです。dWはxとdy（転置してもよい）の積で、形状は(I, O)のはずです。
# B・I・Oが互いに異なれば、8通りの積のうち該当するのは :math:`x^\top dy` だけです。3つが等しいと
# 8通りすべてが該当し、7つは誤りです。また1/Bのような係数の誤りは形状には決して現れません。
# 形状合わせは、一度導いた式を思い出す方法であって、導く方法ではありません。

accepted = {}
for n_batch, n_in, n_out in ((5, 3, 2), (4, 4, 4)):
    x2, t2 = rng.normal(size=(n_batch, n_in)), rng.normal(size=(n_batch, n_out))
    W2 = rng.normal(size=(n_in, n_out))
    dy2 = (x2 @ W2 - t2) / n_batch
    xs, dys = [("x", x2), ("x^T", x2.T)], [("dy", dy2), ("dy^T", dy2.T)]
    pairs = [*itertools.product(xs, dys), *itertools.product(dys, xs)]
    products = {f"{m} {n}": p @ q for (m, p), (n, q) in pairs if p.shape[1] == q.shape[0]}
    accepted[n_batch, n_in, n_out] = {
        name: check_gradients(lambda W, x=x2, t=t2: loss(x @ W, t), W2, claim).ok
        for name, claim in products.items()
        if claim.shape == W2.shape
    }
assert [len(verdicts) for verdicts in accepted.values()] == [1, 8]
assert all([k for k, ok in v.items() if ok] == ["x^T dy"] for v in accepted.values())

# %%
# The batch / バッチ
# ------------------
# 1. :math:`dW = \sum_n x_n^\top dy_n`: the gradient of a batch is the sum over its examples.
# 2. b is copied to every row forwards, so db is the sum over the rows backwards.
# 3. The layer does not divide by B. If the loss is a mean, 1/B is in dy already: a batch that holds
#    every example twice gives the same dW. If the loss is a sum, it gives twice the dW.
#
# 1. :math:`dW = \sum_n x_n^\top dy_n`。バッチの勾配は、データごとの勾配の和です。
# 2. bは順伝播で全行にコピー（ブロードキャスト）されるので、dbは逆伝播で全行の和になります。
# 3. 層はBで割りません。損失が平均なら1/Bはすでにdyに入っていて、全データを2回ずつ含むバッチでもdWは
#    変わりません。損失が和ならdWは2倍になります。

dW, db = layer.dW, layer.db
assert np.allclose(dW, sum(np.outer(x[n], dy[n]) for n in range(5)), rtol=0, atol=1e-14)
assert np.allclose(db, np.ones(5) @ dy, rtol=0, atol=1e-14)
difference = layer.forward(np.vstack([x, x])) - np.vstack([t, t])
layer.backward(difference / 10)  # mean over the 10 rows
assert np.allclose(layer.dW, dW, rtol=0, atol=1e-14)
layer.backward(difference)  # sum over the 10 rows; over the 5 it is 5 dW
assert np.allclose(layer.dW, 2 * (5 * dW), rtol=0, atol=1e-13)

# %%
# On digits / 手書き数字で
# ------------------------
# One ``Dense(784, 10)`` is to give 1 at the class of a digit and 0 elsewhere. Each column of
# :math:`dW = x^\top dy` is a sum of input images, weighted by their errors: an image. At W = 0,
# b = 0 the error is -t/B, so column j of -dW is the mean image of class j, up to a factor. Gradient
# descent first writes these means into W, and afterwards only what is still wrong.
#
# 1層の ``Dense(784, 10)`` に、正解のクラスで1、ほかで0を出力させます。:math:`dW = x^\top dy` の
# 各列は、誤差で重み付けした入力画像の和、つまり画像です。W = 0、b = 0では誤差が-t/Bなので、-dWの
# 第j列はクラスjの平均画像の定数倍です。勾配降下法はまず平均画像をWに書き込み、その後はまだ
# 誤っている分だけを書き足していきます。

data = mnist10k()
x, labels = data.x_train[:2000], data.y_train[:2000]
t = np.eye(10, dtype=np.float32)[labels]
model = Dense(784, 10)
model.W[...] = 0
rows = []
for step in range(301):
    y = model.forward(x)
    model.backward((y - t) / len(x), need_dx=False)
    if step == 0:
        first = -model.dW
    if step in (0, 1, 10, 100, 300):
        hits = model.apply(data.x_test).argmax(axis=1) == data.y_test
        rows.append((step, loss(y, t), np.linalg.norm(model.dW), hits.mean()))
    model.W -= 0.015 * model.dW
    model.b -= 0.015 * model.db

print("\nDense(784, 10), squared error, gradient descent on 2,000 digits")
print("            step    loss    |dW|  accuracy on 1,000 other digits")
for row in rows:
    print("          {:6d}  {:.4f}  {:.4f}  {:.3f}".format(*row))

means = np.stack([x[labels == j].mean(axis=0) for j in range(10)])
shares = np.bincount(labels) / len(x)
assert np.allclose(first.T, means * shares[:, None], rtol=0, atol=1e-6)
assert all(late[1] < early[1] for early, late in itertools.pairwise(rows))
assert rows[1][3] > 0.6  # the mean images alone
assert rows[-1][3] > 0.8

images = {
    "mean image of the class": means / means.max(),
    "first -dW": first.T / first.max(),
    "W after 300 steps (grey = 0)": 0.5 + model.W.T / (2 * np.abs(model.W).max()),
}
figure = plots.image_rows(images, title="dW is a sum of input images, weighted by their errors")
plots.save(figure, "out/02_dense_layer.png")

# %%
# A meaning check / 意味の確認
# ----------------------------
# This loss can be minimised without a gradient, by least squares, and at that minimum ours must
# vanish: :math:`x^\top (xW - t) = 0` is the normal equation :math:`x^\top x\, W = x^\top t`.
#
# この損失の最小点は、勾配を使わずに最小二乗法で求められ、そこでは勾配が0になるはずです。
# :math:`x^\top (xW - t) = 0` は正規方程式 :math:`x^\top x\, W = x^\top t` そのものです。

x = x.astype(np.float64)
solution = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), t, rcond=None)[0]
model = Dense(784, 10, dtype=np.float64)
model.W[...], model.b[...] = solution[:-1], solution[-1]
y = model.forward(x)
model.backward((y - t) / len(x), need_dx=False)
hits = model.apply(data.x_test).argmax(axis=1) == data.y_test
size = np.linalg.norm(model.dW)
print(f"   least squares  {loss(y, t):.4f}  {size:6.0e}  {hits.mean():.3f}")
print("\nproducts of x and dy with the shape of dW, and those that the gradient check accepts")
for sizes, verdicts in accepted.items():
    print(f"  B, I, O = {sizes}: {len(verdicts)} fit, {sum(verdicts.values())} accepted (x^T dy)")
assert max(size, np.abs(model.db).max()) < 1e-10
assert loss(y, t) < rows[-1][1]
assert hits.mean() < rows[-1][3]

# %%
# What to see: one step, the mean images, classifies most of the digits. After 300 steps the loss
# is still far above its minimum; yet the minimum classifies unseen digits worse, as 785 weights a
# class overfit 2,000 digits. A smaller training loss is not always a better model.
#
# 表の見どころ：1ステップ、つまり平均画像だけで、過半数の数字を分類できます。300ステップ後も損失は
# 最小値よりかなり大きいのに、未知の数字では最小点のほうが劣ります。1クラス785個の重みが2,000枚の
# 数字に過学習したためです。訓練データでの損失が小さいほど良いモデルとは限りません。

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - y = xW + b: dW = x^T dy, db = dy summed over the batch, dx = dy W^T.
#   / y = xW + bでは、dW = x^T dy、dbはdyのバッチ方向の和、dx = dy W^T。
# - The forward pass keeps x for dW; dx needs W instead.
#   / 順伝播でxを保持するのはdWのため。dxに要るのはW。
# - Copied (broadcast) forwards, summed backwards. / 順伝播でコピーしたものは、逆伝播で和を取る。
# - The 1/B of a mean loss enters once, in dy. / 平均損失の1/Bはdyに一度だけ入る。
# - Shapes tell transposes apart only if sizes differ, and never show a factor.
#   / 形状で転置の誤りが分かるのは次元が異なるときだけ。係数の誤りは現れない。
# - Squared error: dW = 0 is the normal equation. / 二乗誤差では、dW = 0が正規方程式。

# %%
# Try it / 試してみよう
# ---------------------
# 1. In ``DenseByHand.backward`` divide ``dW`` by ``len(dy)``: no shape changes, and the report says
#    0.200 = 1/B.
#    / ``DenseByHand.backward`` の ``dW`` を ``len(dy)`` で割ると、形状は同じですが0.200 = 1/Bと
#    報告されます。
# 2. Replace 0.015 by 0.055: the loss grows. On a quadratic the rate must stay below 2 over the
#    largest eigenvalue of :math:`x^\top x / B`, with a column of ones added to x for b: here 39.6.
#    / 0.015を0.055にすると損失が増えていきます。2次関数では、学習率を「2÷最大固有値」より小さくする
#    必要があります（bのために1の列を加えたxについての :math:`x^\top x / B` の最大固有値で、ここでは
#    39.6です）。
