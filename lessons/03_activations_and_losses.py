r"""
3. Activations and losses / 活性化関数と損失関数
================================================

| After this lesson you can derive the backward passes of ReLU, tanh and sigmoid, of the mean
  squared error and of the cross-entropy; say why gradients vanish in deep sigmoid networks; and
  explain why a cross-entropy is computed from logits and not from probabilities.
| この講を終えると、ReLU・tanh・シグモイド、平均二乗誤差、交差エントロピーの逆伝播を導けます。
  シグモイドの深いネットワークで勾配が消失する理由と、交差エントロピーを確率からではなく
  ロジットから計算する理由も説明できます。

| Needs lessons 1 and 2. Runs in about 1 s on two cores.
| 前提は第1講と第2講。実行時間は約1秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - 活性化関数：ReLU、tanh、シグモイド関数
     - activation functions: ReLU, tanh, sigmoid
   * - 勾配消失問題
     - vanishing gradient problem
   * - 平均二乗誤差
     - mean squared error (MSE)
   * - 交差エントロピー、ロジット
     - cross-entropy, logit
   * - ベルヌーイ分布、負の対数尤度
     - Bernoulli distribution, negative log-likelihood
"""

# %%
# Element by element / 要素ごとに
# -------------------------------
# An activation works on each entry alone, :math:`y_i = f(x_i)`. The chain rule's sum has one term,
# :math:`dx_i = dy_i\, f'(x_i)`: a product entry by entry, no matrix. The slopes, in terms of y:
#
# .. math::
#    \mathrm{ReLU:} \quad y &= \max(x, 0), \qquad y' = 1 \;(x > 0), \quad 0 \;(x < 0) \\
#    \mathrm{tanh:} \quad y &= \frac{e^x - e^{-x}}{e^x + e^{-x}}, \qquad
#    y' = \frac{(e^x + e^{-x})^2 - (e^x - e^{-x})^2}{(e^x + e^{-x})^2} = 1 - y^2 \\
#    \mathrm{sigmoid:} \quad y &= \frac{1}{1 + e^{-x}}, \qquad
#    y' = \frac{e^{-x}}{(1 + e^{-x})^2} = y\,(1 - y)
#
# 活性化関数は要素ごとに働きます（:math:`y_i = f(x_i)`）。連鎖律の和は1項だけになり、
# :math:`dx_i = dy_i\, f'(x_i)` です。行列積ではなく要素ごとの積です。3つの傾きは、順伝播で求めたyを
# 使って上のように書けます。

import numpy as np

from scratchvae import BernoulliNLL, MeanSquaredError, ReLU, Sigmoid, Tanh, plots
from scratchvae.datasets import mnist10k
from scratchvae.gradcheck import check_gradients, check_layer, check_loss
from scratchvae.layers import Dense, mlp

np.seterr(all="ignore")  # overflow and 0/0 are a subject of this lesson
rng = np.random.default_rng(0)


def relu(x):
    """Return y and its slope."""
    return np.maximum(x, 0), (x > 0) * 1.0


def tanh(x):
    """Return y and its slope."""
    y = np.tanh(x)
    return y, 1 - y * y


def sigmoid(x):
    """Return y and its slope."""
    y = 1 / (1 + np.exp(-x))
    return y, y * (1 - y)


x, dy = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
for function, layer in ((relu, ReLU()), (tanh, Tanh()), (sigmoid, Sigmoid())):
    y, slope = function(x)
    check_gradients(lambda x, f=function: (dy * f(x)[0]).sum(), x, dy * slope).raise_if_wrong()
    assert np.allclose(layer.forward(x), y, rtol=0, atol=1e-14)
    assert np.allclose(layer.backward(dy), dy * slope, rtol=0, atol=1e-14)
    check_layer(layer, x).raise_if_wrong()

# %%
# Ten layers / 10層重ねると
# -------------------------
# Backpropagation multiplies by one slope a layer. That of a sigmoid is at most 1/4 (where y = 1/2);
# those of tanh and ReLU reach 1. Send a random dy back through ten layers of 100 units with the
# usual initial weights (He's for ReLU, Glorot's for the others), and measure what arrives.
#
# 誤差逆伝播法では、層を1つ通るごとに傾きが1つ掛かります。シグモイドの傾きは最大でも1/4
# （y = 1/2のとき）、tanhとReLUの傾きは最大1です。100ユニットの層を10層重ね、標準的な初期値（ReLUは
# He、ほかはXavier、別名Glorot）を使います。出力側から乱数のdyを入れて、入力側にどれだけ届くかを
# 測ります。

data = mnist10k()
arriving = {}
for name in ("relu", "tanh", "sigmoid"):
    network = mlp((784, *[100] * 10), name, np.random.default_rng(0), "float32")
    dx = rng.normal(size=network.forward(data.x_train[:200]).shape).astype(np.float32)
    norms = [np.linalg.norm(dx)]
    for layer in reversed(network.layers):
        dx = layer.backward(dx)
        if isinstance(layer, Dense):
            norms.append(np.linalg.norm(dx))
    arriving[name] = np.array(norms) / norms[0]
print("share of |dy| that arrives below ten layers")
print("   " + ",  ".join(f"{name} {norms[10]:.0e}" for name, norms in arriving.items()))
assert arriving["sigmoid"][10] < 1e-4
assert min(arriving["relu"][10], arriving["tanh"][10]) > 0.3

# %%
# Mean squared error / 平均二乗誤差
# ---------------------------------
# For an output y and data x, both (B, D),
#
# .. math:: L = \frac{1}{BD} \sum_{nd} (y_{nd} - x_{nd})^2, \qquad dy = \frac{2 (y - x)}{BD} .
#
# But for constants it is the negative log-likelihood of a Gaussian with mean y and fixed variance,
# as :math:`-\log N(x; y, \sigma^2) = (x - y)^2 / 2\sigma^2 + \log \sigma + \tfrac12 \log 2\pi`.
#
# If y is the sigmoid of a number l, the *logit*, its slope is a factor of dl:
# :math:`dl = 2 (y - x)\, y (1 - y) / (BD)`. For a black pixel, x = 0, with l = 10 the slope is
# 0.00005. The surer the wrong answer, the smaller the gradient; and as this is the true derivative,
# better arithmetic would not change it.
#
# 出力yとデータx（ともに(B, D)）に対する平均二乗誤差です。定数を除けば、平均y、分散一定の正規分布の
# 負の対数尤度
# :math:`-\log N(x; y, \sigma^2) = (x - y)^2 / 2\sigma^2 + \log \sigma + \tfrac12 \log 2\pi` に
# 当たります。
#
# yが数値l（*ロジット* と呼びます）のシグモイドなら、その傾きも掛かって
# :math:`dl = 2 (y - x)\, y (1 - y) / (BD)` となります。黒い画素（x = 0）でl = 10のとき、傾きは
# 0.00005です。自信を持って間違えるほど勾配が小さくなります。これは正しい微分の値なので、計算方法を
# 工夫しても変わりません。

y, x = rng.uniform(size=(5, 3)), rng.uniform(size=(5, 3))
mse = MeanSquaredError()
assert np.isclose(mse.forward(y, x), ((y - x) ** 2).sum() / 15)
assert np.allclose(mse.backward(), 2 * (y - x) / 15, rtol=0, atol=1e-14)
check_loss(mse, y, x).raise_if_wrong()

# %%
# Cross-entropy, and how it dies / 交差エントロピーと、その壊れ方
# ---------------------------------------------------------------
# Let y be the probability of a white pixel. A pixel x, 0 or 1, has the probability
# :math:`y^x (1 - y)^{1-x}` (Bernoulli); the loss is its negative logarithm:
#
# .. math:: L = -x \log y - (1 - x) \log (1 - y), \qquad
#    \frac{\partial L}{\partial y} = -\frac{x}{y} + \frac{1 - x}{1 - y} = \frac{y - x}{y (1 - y)} .
#
# The denominator is the slope of the sigmoid. On paper the two cancel and :math:`dl = y - x`: the
# surer the wrong answer, the larger the gradient. In arithmetic they cancel only while neither is
# rounded to 0. In float32, :math:`1 + e^{-l}` is 1 from :math:`l = 24 \ln 2 = 16.64` on; then y =
# 1, the denominator is 0, the slope is 0, and :math:`\infty \cdot 0` is NaN. The usual remedy clips
# y to :math:`[10^{-7}, 1 - 10^{-7}]` and so turns NaN into 0: beyond its ends a clip is constant.
#
# yを「画素が白である確率」とします。0か1の値を取る画素xの確率は :math:`y^x (1 - y)^{1-x}`
# （ベルヌーイ分布）で、その負の対数が損失です。:math:`\partial L / \partial y` の分母はシグモイドの
# 傾きに等しいので、紙の上では約分されて :math:`dl = y - x` です。自信を持って間違えるほど勾配が
# 大きくなります。計算機で約分が成り立つのは、どちらも0に丸められない間だけです。float32では
# :math:`l = 24 \ln 2 = 16.64` から先で :math:`1 + e^{-l}` が1になり、y = 1、分母は0、傾きも0、
# :math:`\infty \cdot 0` はNaNです。よくある対策はyを :math:`[10^{-7}, 1 - 10^{-7}]` に
# クリップすることですが、NaNが0に変わるだけです。区間の外ではクリップが定数になるからです。


def from_probabilities(logits, x, clip=None):
    """Return loss and dl of each pixel: sigmoid, clip, cross-entropy, link by link."""
    y, slope = sigmoid(logits)
    c = y if clip is None else np.clip(y, clip, 1 - clip)
    loss = -(x * np.log(c) + (1 - x) * np.log(1 - c))
    dc = (c - x) / (c * (1 - c))
    return loss, dc * (c == y) * slope


# %%
# From logits / ロジットから計算する
# ----------------------------------
# Take the logarithm before anything is rounded: :math:`\log y = l - \log(1 + e^l)` and
# :math:`\log(1 - y) = -\log(1 + e^l)`, so
#
# .. math:: L = \log(1 + e^l) - x l = \max(l, 0) - x l + \log(1 + e^{-|l|}), \qquad dl = y - x .
#
# No exponent is positive, so nothing overflows. With :math:`t = e^{-|l|}`, y is :math:`1/(1+t)` for
# l ≥ 0 and :math:`t/(1+t)` for l < 0.
#
# 丸められる前に対数を取ります。:math:`\log y = l - \log(1 + e^l)` と
# :math:`\log(1 - y) = -\log(1 + e^l)` をLに代入すると、上の式になります。最後の形には正の指数が
# 現れないので、オーバーフローしません。:math:`t = e^{-|l|}` とおくと、yはl ≥ 0なら
# :math:`1/(1+t)`、l < 0なら :math:`t/(1+t)` です。


def from_logits(logits, x):
    """Return loss and dl of each pixel."""
    t = np.exp(-np.abs(logits))
    y = np.where(logits >= 0, 1, t) / (1 + t)
    return np.maximum(logits, 0) - x * logits + np.log1p(t), y - x


a = 3 * rng.normal(size=(5, 3))
dl = from_logits(a, x)[1]
check_gradients(lambda a: from_logits(a, x)[0].sum(), a, dl).raise_if_wrong()
for mine, other in zip(from_logits(a, x), from_probabilities(a, x), strict=True):
    assert np.allclose(mine, other, rtol=0, atol=1e-10)  # on paper they are the same
nll = BernoulliNLL()  # the library's: sum over the pixels, mean over the batch of 5
assert np.isclose(nll.forward(a, x), from_logits(a, x)[0].sum() / 5)
assert np.allclose(nll.backward(), dl / 5, rtol=0, atol=1e-14)
check_loss(nll, a, x).raise_if_wrong()
assert nll.forward(np.array([[-1e4, 1e4]], "f"), np.array([[1, 0]], "f")) == 2e4
assert np.array_equal(nll.backward(), [[-1, 1]])

# %%
# A black pixel, ever more surely called white / 黒い画素を白と言い切る
# ---------------------------------------------------------------------
# In float32, x = 0; the squared error is summed here, to be compared pixel by pixel. A gradient
# check does not object to the clip: 0 is the derivative of the clipped loss. It is the loss that is
# wrong (lesson 1).
#
# 黒い画素（x = 0）を白と言い切る度合いを強めていきます（float32）。二乗誤差は、画素ごとに
# 比べられるように平均でなく和とします。クリップは勾配確認では見つかりません。0はクリップした損失の
# 正しい微分で、誤っているのは損失のほうだからです（第1講）。

METHODS = {
    "squared error": lambda a, x: 2 * (sigmoid(a)[0] - x) * sigmoid(a)[1],
    "probabilities": lambda a, x: from_probabilities(a, x)[1],
    "clipped at 1e-7": lambda a, x: from_probabilities(a, x, 1e-7)[1],
    "logits": lambda a, x: from_logits(a, x)[1],
}
a = np.array([5, 10, 16, 17, 20, 100], np.float32)
slopes = {name: gradient(a, np.float32(0)) for name, gradient in METHODS.items()}
print("\ndL/dl of a black pixel with logit l" + "".join(f"{v:8.0f}" for v in a))
for name, values in slopes.items():
    print(f"    {name:31s}" + "".join(f"{v:8.4f}" for v in values))
assert np.isnan(slopes["probabilities"][3:]).all()
assert np.array_equal(slopes["clipped at 1e-7"][3:], [0, 0, 0])
assert np.isnan(from_probabilities(a, 0, 1e-8)[1][3:]).all()  # 1 - 1e-8 is 1: no clip at all
assert (slopes["logits"] > 0.99).all()
sure, zero = np.array(20.0), np.array(0.0)
assert check_gradients(lambda a: from_probabilities(a, zero, 1e-7)[0], sure, zero).ok

# %%
# Training / 学習
# ---------------
# The smallest model: 784 logits, the same for every digit. The loss is linear in x, so its mean
# over the digits is the loss at the mean digit, a grey target. Its minimum, at y = x, is the
# entropy of x: 205.8 nats (a nat is the unit of information with the natural logarithm), not 0.
# Start all logits at one value and follow each gradient for 300 steps; the loss reported is the
# right one.
#
# 最も小さいモデルとして、どの数字にも共通の784個のロジットだけを学習します。損失はxの1次式なので、
# 全データでの平均は、平均画像という灰色の正解に対する損失と同じです。最小値は0ではなく、y =
# xのときのxのエントロピー、205.8 nat（natは、自然対数を使うときの情報量の単位）です。全ロジットを
# 同じ値から始め、それぞれの勾配で300ステップ更新して、正しい損失で比べます。

target = data.x_train.mean(axis=0)
p = target[(target > 0) & (target < 1)].astype(np.float64)
entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()


def train(gradient, start):
    """Return the loss in nats before each of 301 steps."""
    a, curve = np.full(784, start, np.float32), []
    for _ in range(301):
        curve.append(from_logits(a, target)[0].sum())
        a = a - 4 * gradient(a, target)
    return curve


STARTS = (0, 10, 20)
curves = {name: [train(g, start) for start in STARTS] for name, g in METHODS.items()}
final = {name: [curve[-1] for curve in each] for name, each in curves.items()}
print(f"\nnats after 300 steps, all logits starting at (minimum {entropy:.1f})")
print(" " * 35 + "".join(f"{start:9d}" for start in STARTS))
for name, values in final.items():
    print(f"    {name:31s}" + "".join(f"{v:9.1f}" for v in values))
assert all(entropy - 0.1 < v < entropy + 1 for v in final["logits"])
assert max(final["probabilities"][1], final["clipped at 1e-7"][1]) < entropy + 1
assert np.isnan(final["probabilities"][2])
assert np.ptp(curves["clipped at 1e-7"][2]) == 0
assert final["squared error"][0] < entropy + 20
assert final["squared error"][1] > 10 * entropy

# %%
# What to see: ten sigmoid layers let 7e-07 of the gradient through, ten of tanh or ReLU more than
# half. From logit 10, cross-entropy from probabilities does as well as from logits; from 20
# it turns into NaN or does not move at all. Squared error is stuck from 10 already. (PyTorch 2.13,
# float32, x = 0, l = 17: ``BCELoss`` after a sigmoid gives the loss 100 and the gradient 0,
# ``BCEWithLogitsLoss`` gives 17 and 1.)
#
# 表の見どころ：シグモイド10層を通ると勾配は7e-07倍になりますが、tanhとReLUでは半分以上が残ります。
# ロジット10から始めれば、確率から計算しても、ロジットから計算したのと同じ結果です。20からだと、
# NaNになるか、まったく動きません。二乗誤差は10からでも動けません。（PyTorch 2.13、float32、x = 0、
# l = 17のとき、シグモイド後の ``BCELoss`` は損失100・勾配0、``BCEWithLogitsLoss`` は
# 損失17・勾配1です。）

LINES = {
    "logits": {"color": plots.BLUE, "linewidth": 5, "alpha": 0.4},
    "clipped at 1e-7": {"color": plots.VERMILLION, "linestyle": "--", "linewidth": 2},
    "probabilities": {"color": plots.INK, "linestyle": ":", "linewidth": 2},
    "squared error": {"color": "#117733", "linestyle": "-.", "linewidth": 2},
}
figure, (pixel, training, depth) = plots.new_figure(14, 4.4, columns=3)
a = np.linspace(0, 24, 481, dtype=np.float32)
for name, line in LINES.items():
    pixel.plot(a, METHODS[name](a, np.float32(0)), label=name, **line)
    training.plot(curves[name][2][:51], label=name, **line)
for ax, at in ((pixel, (16.6, 1)), (training, (0, curves["logits"][2][0]))):
    ax.plot(*at, "x", color=plots.INK, markersize=11, markeredgewidth=2)
    ax.annotate("NaN", at, (6, 8), textcoords="offset points", color=plots.INK)
for (name, norms), mark in zip(arriving.items(), "osx", strict=True):
    depth.plot(norms, marker=mark, color=plots.INK, label=name)
training.set_yscale("log")
depth.set_yscale("log")
plots.style(pixel, title="Black pixel, called white", xlabel="logit l", ylabel="dL/dl")
plots.style(training, title="Training from logit 20", xlabel="step", ylabel="loss, nats an image")
plots.style(depth, title="Gradient on its way back", xlabel="layers passed", ylabel="|dx| / |dy|")
pixel.legend(frameon=False, loc="center", bbox_to_anchor=(0.4, 0.45))
for ax in (training, depth):
    ax.legend(frameon=False)
plots.save(figure, "out/03_activations_and_losses.png")

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - Slopes: ReLU 1 or 0, tanh 1 - y^2, sigmoid y (1 - y), at most 1/4.
#   / 傾きはReLUが1か0、tanhが1 - y^2、シグモイドがy (1 - y)で最大1/4。
# - An activation's backward pass is a product entry by entry. / 活性化関数の逆伝播は要素ごとの積。
# - Each sigmoid multiplies the gradient by 1/4 or less: vanishing gradient.
#   / シグモイドを1つ通るごとに、勾配に1/4以下の値が掛かる。これが勾配消失の原因。
# - Compute the cross-entropy from logits: :math:`\max(l, 0) - x l + \log(1 + e^{-|l|})`. A clip
#   hides the NaN and stops the learning.
#   / 交差エントロピーはロジットから :math:`\max(l, 0) - x l + \log(1 + e^{-|l|})` と計算する。
#   クリップはNaNを隠すだけで、学習は止まる。
# - Up to constants, squared error is the negative log-likelihood of a Gaussian of fixed variance;
#   cross-entropy is that of a Bernoulli variable.
#   / 定数を除き、二乗誤差は分散を固定した正規分布の、交差エントロピーはベルヌーイ分布の、負の
#   対数尤度。
# - dl = y - t for identity with half the squared error, for sigmoid with binary cross-entropy, and
#   for softmax with cross-entropy.
#   / 恒等関数と二乗誤差の1/2、シグモイドと二値交差エントロピー、ソフトマックスと交差エントロピー、
#   いずれの組でもdl = y - t。
# - Cross-entropy is at least the entropy of its target, and that is 0 only for targets 0 and 1.
#   / 交差エントロピーの最小値は正解のエントロピー。0になるのは正解が0か1のときだけ。

# %%
# Try it / 試してみよう
# ---------------------
# 1. Set ``STARTS`` to (0, 16, 17): from 16 all but squared error learn, from 17 only logits do.
#    / ``STARTS`` を(0, 16, 17)にすると、16からは二乗誤差以外が、17からはロジットだけが学習します。
# 2. Use float64 in ``train``: unclipped works from 20 (it dies at 53 ln 2 = 36.7), clipped is dead
#    as before.
#    / ``train`` をfloat64にすると、クリップなしは20からでも学習できます（限界は53 ln 2 = 36.7）。
#    クリップありは、やはり動きません。
# 3. After ``mlp`` multiply each ``W`` of the sigmoid network by 4: 2e-02 arrives instead of 7e-07.
#    Vanishing is a matter of the weights, too.
#    / シグモイドの ``W`` をすべて4倍すると、7e-07だった値が2e-02になります。勾配消失は、重みの
#    大きさの問題でもあります。
