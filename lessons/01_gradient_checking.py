r"""
1. Gradient checking / 勾配確認
===============================

| After this lesson you can check any derivative you have derived: choose the method and the step h,
  read a relative error, recognise a kink, and name the mistakes that no gradient check can see.
| この講を終えると、自分で導いた微分を数値で検証できます。手法と刻み幅hの選び方、相対誤差の
  読み方、折れ点の見分け方、そして勾配確認では決して見つからない誤りが分かります。

| Needs NumPy, derivatives, Taylor's formula. Runs in about 1 s on two cores.
| 前提はNumPy、微分、テイラー展開。実行時間は約1秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - 勾配確認
     - gradient checking
   * - 数値微分、前進差分、中心差分
     - numerical differentiation, forward difference, central difference
   * - 打ち切り誤差、丸め誤差、桁落ち
     - truncation error, round-off error, cancellation
   * - 相対誤差
     - relative error
   * - 劣勾配
     - subgradient
"""

# %%
# Four ways to a derivative / 微分を求める4つの方法
# -------------------------------------------------
# Backpropagation is derived by hand, and a sign is easily lost. A numerical derivative needs no
# derivation, only values of f. Taylor's formula says how good it is:
#
# .. math:: f(x \pm h) = f \pm h f' + \tfrac{h^2}{2} f'' \pm \tfrac{h^3}{6} f''' +
#           \tfrac{h^4}{24} f'''' \pm \cdots
#
# .. math::
#    \text{forward:} \quad \frac{f(x+h) - f(x)}{h} &= f' + \tfrac{h}{2} f'' + \cdots \\
#    \text{central:} \quad C(h) = \frac{f(x+h) - f(x-h)}{2h}
#    &= f' + \tfrac{h^2}{6} f''' + c\,h^4 + \cdots \\
#    \text{Richardson:} \quad \frac{4\,C(h/2) - C(h)}{3} &= f' - \tfrac14 c\,h^4 + \cdots \\
#    \text{complex step:} \quad \frac{\mathrm{Im} f(x + ih)}{h} &= f' - \tfrac{h^2}{6} f''' + \cdots
#
# In the central difference the even terms cancel. Richardson's combination cancels the next one
# too: :math:`4 (h/2)^2 - h^2 = 0`, while :math:`(4 (h/2)^4 - h^4) / 3 = -h^4 / 4` is left. The
# complex step is Taylor's formula with ih for h; its even terms are real and drop out.
#
# 誤差逆伝播法の式は手で導くので、符号などを間違えがちです。数値微分なら、導出なしにfの値だけで
# 計算できます。その誤差はテイラー展開で分かります。中心差分では偶数次の項が打ち消し合います。
# リチャードソン補外は、その次の項も消します（:math:`4 (h/2)^2 - h^2 = 0`、残りは
# :math:`(4 (h/2)^4 - h^4) / 3 = -h^4 / 4`）。複素ステップ法は、テイラー展開のhをihに置き
# 換えたものです。偶数次の項は実数なので、虚部には現れません。

import numpy as np

from scratchvae import plots
from scratchvae.gradcheck import check_gradients, numerical_gradient


def forward(f, x, h):
    """Return the derivative with an error of order h."""
    return (f(x + h) - f(x)) / h


def central(f, x, h):
    """Return the derivative with an error of order h^2."""
    return (f(x + h) - f(x - h)) / (2 * h)


def richardson(f, x, h):
    """Return the derivative with an error of order h^4."""
    return (4 * central(f, x, h / 2) - central(f, x, h)) / 3


def complex_step(f, x, h):
    """Return the derivative with an error of order h^2 and no difference taken."""
    return f(x + 1j * h).imag / h


# %%
# The U-curve / U字曲線
# ---------------------
# Why not h = 1e-15? Because f carries a relative round-off :math:`\varepsilon \approx 10^{-16}`.
# The difference of two nearly equal values keeps that error and is then divided by h. With a
# truncation error of order :math:`h^p` the total is about :math:`h^p + \varepsilon / h`, least near
# :math:`h = \varepsilon^{1/(p+1)}`, where it is :math:`\varepsilon^{p/(p+1)}`: 1e-8 for the forward
# difference, 1e-11 for the central one, 1e-13 for Richardson's. The complex step takes no
# difference, loses nothing, and may have h = 1e-30.
#
# The function is :math:`f(x) = \log(1 + e^x)`, whose derivative is :math:`1 / (1 + e^{-x})`; the
# error is the root mean square over 50 points x.
#
# hを1e-15のように小さくすればよいかというと、そうではありません。fの値には、相対誤差で
# :math:`\varepsilon \approx 10^{-16}` 程度の丸め誤差があり、ほぼ等しい2つの値の差を取ると
# 桁落ちして、残った誤差がhで割られます。打ち切り誤差が :math:`h^p` 程度なら、合計は
# :math:`h^p + \varepsilon / h` 程度で、:math:`h = \varepsilon^{1/(p+1)}` の付近で最小値
# :math:`\varepsilon^{p/(p+1)}` を取ります。前進差分で1e-8、中心差分で1e-11、リチャードソン補外で
# 1e-13ほどです。複素ステップ法は差を取らないので桁落ちがなく、h = 1e-30でもかまいません。
#
# 関数は :math:`f(x) = \log(1 + e^x)`、その微分は :math:`1 / (1 + e^{-x})` です。50個の点xでの誤差の
# 二乗平均平方根を測ります。


def softplus(x):
    """Return f(x) = log(1 + e^x)."""
    return np.log(1 + np.exp(x))


x = np.linspace(0.5, 1.5, 50)
slope = 1 / (1 + np.exp(-x))
h = 10.0 ** (np.arange(-80, 1) / 4)  # from 1e-20 to 1
METHODS = {
    "forward": (forward, x),
    "central": (central, x),
    "Richardson": (richardson, x),
    "complex step": (complex_step, x),
    "central, float32": (central, x.astype(np.float32)),
}
errors = {}
print("relative error of a derivative at h =     1e-2    1e-4    1e-8   1e-12      best (at h)")
for name, (method, points) in METHODS.items():
    estimates = np.array([method(softplus, points, step) for step in h.astype(points.dtype)])
    error = np.sqrt(np.mean((estimates - slope) ** 2, axis=1) / np.mean(slope**2))
    row = "".join(f"{error[80 - 4 * k]:8.0e}" for k in (2, 4, 8, 12))
    print(f"    {name:33s}{row}     {error.min():.0e} ({h[error.argmin()]:.0e})")
    errors[name] = error
assert np.isclose(np.log10(errors["forward"][72] / errors["forward"][64]), 2, atol=0.1)
assert np.isclose(np.log10(errors["central"][72] / errors["central"][64]), 4, atol=0.1)
assert np.isclose(np.log10(errors["Richardson"][76] / errors["Richardson"][72]), 4, atol=0.2)
assert 1e-9 < errors["forward"].min() < 1e-7
assert 1e-12 < errors["central"].min() < 1e-10
assert errors["Richardson"].min() < 1e-12
assert errors["central"][32] > 10 * errors["central"][72]
assert errors["Richardson"][32] > 1e6 * errors["Richardson"][72]
assert errors["complex step"][:40].max() < 1e-15
assert np.allclose(complex_step(softplus, x, 1e-30), slope, rtol=1e-14)
assert errors["central, float32"].min() > 1e-6

# %%
# What to see: the error falls with the order of the method, and rises as 1/h where a difference is
# taken. At h = 1e-12 the central difference is worse than at 1e-2, and Richardson's a hundred
# million times. In float32 the central difference gets to 6e-06 at best: check in float64, train in
# float32.
#
# 表の見どころ：hを小さくすると、誤差は次数に応じて減った後、差を取る手法では1/hに比例して増えます。
# h = 1e-12での誤差は、中心差分でもh = 1e-2のときより大きく、リチャードソン補外では
# 1億倍にもなります。float32の中心差分では、最良でも6e-06です。勾配確認はfloat64で、学習はfloat32で
# 行います。

# %%
# A gradient / 勾配
# -----------------
# The gradient of a function of many variables is found one variable at a time. An example is the
# cross-entropy of a softmax, for a target t whose entries sum to 1:
#
# .. math:: L(l) = \log \sum_j e^{l_j} - \sum_j t_j l_j, \qquad
#    \frac{\partial L}{\partial l_i} = \frac{e^{l_i}}{\sum_j e^{l_j}} - t_i
#    = \mathrm{softmax}(l)_i - t_i .
#
# An analytic gradient a and a numerical one n are compared by their relative error,
# :math:`|a - n| / \max(|a|, |n|)` with the norm of the whole tensor. An absolute tolerance would
# accept whatever is small, even if it is wrong by a tenth; the relative error of each entry would
# reject what is right, where an entry is so small that its numerical derivative is round-off. (The
# library does look at each entry, but allows for the round-off.)
#
# 多変数関数の勾配は、変数を1つずつ動かして求めます。例として、要素の和が1である正解tに対する
# ソフトマックスの交差エントロピーを使います。解析的な勾配aと数値的な勾配nは、テンソル全体の
# ノルムによる相対誤差 :math:`|a - n| / \max(|a|, |n|)` で比べます。絶対誤差では、値が小さければ、
# 1割違う勾配でも合格してしまいます。要素ごとの相対誤差では、数値微分が丸め誤差に埋もれるほど小さい
# 要素があると、正しい勾配が不合格になります（ライブラリは要素ごとにも調べますが、丸め誤差の分を
# 見込みます）。


def gradient_by_hand(f, x, h=1e-5):
    """Return the gradient of f at x by central differences; x is left as it was."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        keep = x[i]
        x[i] = keep + h
        up = f(x)
        x[i] = keep - h
        gradient[i] = (up - f(x)) / (2 * h)
        x[i] = keep
    return gradient


def relative_error(a, n):
    """Return |a - n| / max(|a|, |n|)."""
    return np.linalg.norm(a - n) / max(np.linalg.norm(a), np.linalg.norm(n))


def cross_entropy(logits):
    """Return L for the class 0."""
    return np.log(np.exp(logits).sum()) - logits[0]


def softmax(logits):
    """Return exp(l_i) / sum_j exp(l_j)."""
    return np.exp(logits) / np.exp(logits).sum()


logits = np.array([1.0, -0.5, 0.3, 2.0, -27.0])
right = softmax(logits) - np.eye(5)[0]
by_hand = gradient_by_hand(cross_entropy, logits)
assert relative_error(right, by_hand) < 1e-9
assert relative_error(right, numerical_gradient(cross_entropy, logits)) < 1e-11  # Richardson
assert relative_error(right, numerical_gradient(cross_entropy, logits, "complex")) < 1e-14
assert np.allclose(1.1e-9 * right, 1e-9 * right)  # an absolute tolerance of 1e-8
assert relative_error(1.1e-9 * right, 1e-9 * right) > 0.09
assert abs(by_hand[4] - right[4]) > 0.1 * right[4]  # 1e-13: the right entry looks wrong
assert check_gradients(cross_entropy, logits, right, method="central", tolerance=1e-8).ok

# %%
# What the library adds / ライブラリの機能
# ----------------------------------------
# ``check_gradients`` takes the complex step where f allows it and Richardson elsewhere, with a step
# of its own for each entry, and says in words how a wrong gradient is wrong. Three mistakes:
#
# ``check_gradients`` は、可能なら複素ステップ法を、そうでなければリチャードソン補外を使い、刻み幅を
# 要素ごとに選びます。勾配が誤っていれば、どう誤っているかを言葉で示します。誤りの例を3つ挙げます。

print("\nthree wrong gradients, explained by check_gradients")
W = np.random.default_rng(0).normal(size=(3, 3))
for wrong in (2 * W, W.T, np.where(np.eye(3) == 1, -W, W)):
    report = check_gradients(lambda v: (v["W"] ** 2).sum() / 2, {"W": W}, {"W": wrong})
    assert not report.ok  # the right one is W
    print("   ", report["W"].findings[0].text)

# %%
# The kink of ReLU / ReLUの折れ点
# -------------------------------
# :math:`\max(x, 0)` has the slope 0 left of 0 and 1 right of it. At 0 there is no derivative; every
# number in [0, 1] is a subgradient, and backpropagation takes 0. The central difference gives 1/2
# there, and :math:`(x + h) / 2h` wherever :math:`|x| < h`: a right gradient is called wrong. Of
# normally distributed x that is a share of about 0.8 h, so a smaller h helps. ``check_gradients``
# tells a kink from a mistake. The complex step needs an analytic f: of :math:`|x|` it silently
# returns 0 (the library notices, as it compares with a rough central difference).
#
# :math:`\max(x, 0)` の傾きは、0の左で0、右で1です。0では微分が存在せず、[0, 1]のどの値も劣勾配で、
# 誤差逆伝播法では0を使います。中心差分はそこで1/2、:math:`|x| < h` なら :math:`(x + h) / 2h`
# になるので、正しい勾配でも不合格になります。xが標準正規分布に従うなら、その割合は約0.8hで、hが
# 小さいほど減ります。``check_gradients`` は折れ点と誤りを区別します。複素ステップ法が使えるのは
# 解析関数だけで、:math:`|x|` に対しては、警告もなく0を返します（ライブラリは粗い中心差分と比べて
# 気づきます）。


def relu(x):
    """Return max(x, 0)."""
    return np.maximum(x, 0)


rng = np.random.default_rng(0)
assert central(relu, 0.0, 1e-5) == 0.5
normal = rng.normal(size=1_000_000)
hit = np.mean(np.abs(central(relu, normal, 1e-2) - (normal > 0)) > 1e-6)
assert np.isclose(hit, 0.8e-2, rtol=0.05)
at_kink = check_gradients(lambda x: relu(x).sum(), np.array([-1.0, 0.0, 2.0]), np.array([0, 0, 1]))
assert at_kink.ok
assert at_kink.verdict == "kink"
assert complex_step(np.abs, -2.0, 1e-30) == 0
assert np.isclose(numerical_gradient(lambda x: np.abs(x).sum(), np.array([-2.0]), "complex"), -1)

# %%
# What no gradient check can see / 勾配確認では見つからない誤り
# -------------------------------------------------------------
# It compares a backward pass with its own forward pass. If the forward pass computes the wrong
# thing, it is differentiated perfectly:
#
# - **twice the loss**: L and dL are both doubled;
# - **the wrong formula**: a Gaussian number with the variance :math:`e^{logvar}` is
#   :math:`z = \mu + e^{logvar/2} \epsilon`. With :math:`e^{logvar}` for the standard deviation
#   (found in public code) z still has a gradient, and the check confirms it;
# - **another point**: it speaks of the points checked. A branch not taken there is not checked.
#
# Against these only a *meaning check* helps: a number that is known without the code. The
# cross-entropy of a uniform guess among five is log 5; the variance of many z must be
# :math:`e^{logvar}`; and not only at logvar = 0, where both formulas give 1.
#
# And it cannot answer a question that is badly put. For :math:`L = \sum_i y_i` the outputs of a
# softmax sum to 1, the right gradient is 0, and a backward pass that is 1000 times too large
# passes. Take :math:`L = \sum_i dy_i\, y_i` with a random dy, as the library's ``check_layer``
# does.
#
# 勾配確認は、逆伝播を、それ自身の順伝播と比べます。順伝播が意図と違うものを計算していても、その
# 微分が正しければ合格します。
#
# - **2倍の損失**：LもdLも2倍になるだけです。
# - **誤った式**：分散が :math:`e^{logvar}` の正規乱数は :math:`z = \mu + e^{logvar/2} \epsilon`
#   です。標準偏差を :math:`e^{logvar}` としても（公開されたコードに実例があります）、zには
#   勾配があり、その勾配は合格します。
# - **別の点**：分かるのは調べた点でのことだけです。そこで通らなかった分岐は検証されません。
#
# これらを見つけるのは *意味の確認*、つまりコードなしで分かっている値との比較だけです。5択で一様に
# 予測したときの交差エントロピーはlog 5、多数のzの分散は :math:`e^{logvar}` のはずです。ただし
# logvarが0の点だけで調べても、どちらの式でも1になるので分かりません。
#
# 問い方が悪い場合も役に立ちません。ソフトマックスの出力の和は1なので、:math:`L = \sum_i y_i` の
# 勾配は0で、1000倍も大きい逆伝播でも合格します。乱数のdyを使って :math:`L = \sum_i dy_i\, y_i`
# とします（ライブラリの ``check_layer`` はこうしています）。

print(f"\n{'':34s}gradient check   meaning check")
for factor in (1, 2):
    report = check_gradients(lambda x, k=factor: k * cross_entropy(x), logits, factor * right)
    uniform = factor * cross_entropy(np.zeros(5))
    name = f"{factor} x cross-entropy"
    print(f"    {name:30s}{report.verdict:17s}at 0: {uniform:.2f}, log 5 = {np.log(5):.2f}")
    assert report.ok
    assert np.isclose(uniform, np.log(5)) == (factor == 1)

logvar, dz, eps = rng.normal(size=(3, 4))
grid, draws = np.linspace(-2, 2, 9), rng.normal(size=100_000)
FORMULAS = {
    "exp(logvar / 2)": (lambda v: np.exp(v / 2), lambda v: np.exp(v / 2) / 2),
    "exp(logvar)": (np.exp, np.exp),
}
variances = {}
for name, (sigma, slope) in FORMULAS.items():
    dlogvar = dz * slope(logvar) * eps
    report = check_gradients(lambda v, s=sigma: (dz * s(v) * eps).sum(), logvar, dlogvar)
    variances[name] = np.array([np.var(sigma(v) * draws) for v in grid])
    at_1 = f"logvar = 1: variance {variances[name][6]:.2f}, exp(1) = {np.e:.2f}"
    print(f"    sigma = {name:22s}{report.verdict:17s}{at_1}")
    assert report.ok
error = 5 * np.sqrt(2 / len(draws))  # five standard errors of a variance, relative
assert np.allclose(variances["exp(logvar / 2)"], np.exp(grid), rtol=error)
assert not np.isclose(variances["exp(logvar)"][6], np.e, rtol=error)
assert np.isclose(variances["exp(logvar)"][4], 1, rtol=error)  # logvar = 0: not seen


def softmax_backward(logits, dy):
    """Return dl, 1000 times too large: dl_i = y_i (dy_i - sum_j dy_j y_j)."""
    y = softmax(logits)
    return 1000 * y * (dy - dy @ y)


dy = rng.normal(size=5)
plain = gradient_by_hand(lambda x: softmax(x).sum(), logits)
assert np.allclose(softmax_backward(logits, np.ones(5)), plain, rtol=0, atol=1e-9)  # passes
assert not check_gradients(lambda x: dy @ softmax(x), logits, softmax_backward(logits, dy)).ok

figure, (curve, kink, meaning) = plots.new_figure(14, 4.6, columns=3)
LINES = (":", "--", "-", "-", "--")
COLOURS = ("#999933", plots.BLUE, "#117733", plots.INK, plots.VERMILLION)
for (name, error), line, colour in zip(errors.items(), LINES, COLOURS, strict=True):
    curve.plot(h, np.maximum(error, 1e-17), line, color=colour, linewidth=2, label=name)
curve.set(xscale="log", yscale="log", ylim=(1e-17, 10))
plots.style(curve, title="Smaller is not better", xlabel="step h", ylabel="relative error")
u = np.linspace(-3, 3, 241)
kink.plot(u, u > 0, color=plots.INK, linewidth=2, label="slope of ReLU")
kink.plot(u, forward(relu, u, 1), ":", color="#999933", linewidth=2, label="forward")
kink.plot(u, central(relu, u, 1), "--", color=plots.BLUE, linewidth=2, label="central")
plots.style(kink, title="Near the kink of ReLU", xlabel="x / h", ylabel="slope")
for name, line, mark in zip(variances, ("-", "--"), "os", strict=True):
    ratio = variances[name] / np.exp(grid)
    meaning.plot(grid, ratio, line + mark, color=plots.INK, label=f"sigma = {name}")
meaning.set_yscale("log")
meaning.minorticks_off()
meaning.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
plots.style(
    meaning, title="Both pass the gradient check", xlabel="logvar", ylabel="variance / exp(logvar)"
)
for ax in (curve, kink, meaning):
    ax.legend(frameon=False)
plots.save(figure, "out/01_gradient_checking.png")

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - Error of the forward difference: order h; of the central one: :math:`h^2`.
#   / 誤差は前進差分がhのオーダー、中心差分が :math:`h^2` のオーダー。
# - The best h balances truncation and round-off; in float64 1e-8 forward, 1e-5 central.
#   / 最良のhは打ち切り誤差と丸め誤差の釣り合いで決まる。float64では前進差分で1e-8、中心差分で
#   1e-5程度。
# - The complex step takes no difference: h = 1e-30 will do, but f must be analytic.
#   / 複素ステップ法は差を取らないのでh = 1e-30でよい。ただしfは解析関数に限る。
# - Compare in float64, by the relative error. / float64で計算し、相対誤差で比べる。
# - A numerical gradient costs one or two evaluations of f for each parameter, backpropagation a few
#   for all of them: the one checks, the other trains.
#   / 数値微分は関数をパラメータごとに1～2回計算する。誤差逆伝播法は全体で数回分。だから数値微分は
#   検証に使い、学習には使わない。
# - ReLU at 0: every number in [0, 1] is a subgradient; 0 is used.
#   / ReLUの0では[0, 1]のどの値も劣勾配。通常は0を使う。
# - A gradient check cannot see a wrong loss. / 勾配確認では、損失そのものの誤りは見つからない。

# %%
# Try it / 試してみよう
# ---------------------
# 1. In ``METHODS``, take ``richardson`` for float32: the best error is 1e-06, at h = 0.2. /
#    ``METHODS`` のfloat32の行を ``richardson`` にすると、最良でも誤差は1e-06です（h = 0.2）。
# 2. In ``FORMULAS``, forget the ``/ 2`` of the derivative and print the report: dx is 2.000 times
#    the right gradient. / ``FORMULAS`` の微分の ``/ 2`` を消して ``report`` を表示すると、
#    2.000倍だと報告されます。
# 3. Draw 10 numbers instead of 100,000: five standard errors are now 224 %, and the assertion that
#    catches ``exp(logvar)`` fails. A meaning check needs enough draws.
#    / 乱数を10万個から10個に減らすと、標準誤差の5倍が224%になり、``exp(logvar)`` の誤りを見つける
#    assertが失敗します。意味の確認には十分な数の乱数が要ります。
