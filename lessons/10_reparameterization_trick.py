r"""
10. The reparameterization trick / 再パラメータ化トリック
=========================================================

| After this lesson you can say why a sample has no derivative, derive the two ways around that,
  write the reparameterization trick with its backward pass, and find its two classic bugs.
| この講を終えると、サンプリングが微分できない理由を説明し、それを避ける2つの方法を導けます。
  再パラメータ化トリックを逆伝播まで書け、よくある2つのバグを見つけられます。

| Needs lessons 1 and 9. Runs in about 1 s on two cores.
| 前提は第1講と第9講。実行時間は約1秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - 再パラメータ化トリック
     - reparameterization trick
   * - 誤差逆伝播法
     - backpropagation
   * - スコア関数推定量（REINFORCE、尤度比法）
     - score-function estimator (REINFORCE, likelihood ratio)
   * - パスワイズ勾配推定量
     - pathwise gradient estimator
   * - 不偏推定量、分散
     - unbiased estimator, variance
"""

# %%
# A sample has no derivative / サンプリングは微分できない
# -------------------------------------------------------
# A VAE's loss contains :math:`E_{z \sim q}[f(z)]`, where z is drawn from
# :math:`q = N(\mu, \sigma^2)` and f is all that comes after z: decoder and reconstruction error.
# Training needs the derivatives of this average by mu and logvar. But "draw z from
# :math:`N(\mu, \sigma^2)`" is no function of mu: the same mu gives another z each time. There is
# nothing to differentiate, and backpropagation ends at z.
#
# A difference quotient does not help. With fresh draws on both sides the two f differ by about one
# standard deviation of f however small h is, and the quotient scatters like 1/h.
# ``check_gradients`` refuses such an f. The example here is :math:`f(z) = (z - a)^2`, for which all
# is known: :math:`E[f] = (\mu - a)^2 + \sigma^2`, so d/dmu = 2 (mu - a) and d/dlogvar = sigma^2.
#
# VAEの損失には、q = N(mu, sigma^2)からサンプリングしたzについての期待値E[f(z)]が現れます。fはzより
# 後のすべて、つまりデコーダと再構成誤差です。学習にはこの期待値のmuとlogvarによる微分が必要です。
# しかし「zをサンプリングする」操作はmuの関数ではありません。muが同じでも、毎回違うzが出ます。
# 微分する対象がないので、誤差逆伝播はzで止まります。差分商も役に立ちません。サンプリングするたびに
# fが標準偏差の程度だけ変わり、hを小さくすると差分商は1/hに比例してばらつきます。
# ``check_gradients`` はこのようなfを拒否します。以下では、答えの分かるf(z) = (z - a)^2を
# 例にします（期待値は(mu - a)^2 + sigma^2なので、muでの微分は2(mu - a)、logvarでの微分は
# sigma^2です）。

import math

import numpy as np

from scratchvae import GaussianKL, Reparameterize
from scratchvae.gradcheck import check_gradients, check_layer
from scratchvae.plots import BLUE, FAINT, INK, VERMILLION, new_figure, save, style

rng = np.random.default_rng(0)
a, mu, logvar, n = 1.0, 0.5, math.log(0.25), 100_000
sigma = math.exp(logvar / 2)


def f(z):
    """The example, summed over the latents."""
    return ((z - a) ** 2).sum(axis=-1)


def draw(mu):
    """Draw z from N(mu, sigma^2), n times."""
    return rng.normal(mu, sigma, size=(n, 1))


print(f"exact d/dmu = {2 * (mu - a)}")
scatter = []
for h in (1.0, 0.1, 0.01):
    quotients = (f(draw(mu + h / 2)) - f(draw(mu - h / 2))) / h
    scatter.append(quotients.std())
    print(f"h = {h:<5} fresh draws on both sides: one quotient scatters by {scatter[-1]:.1f}")
assert 50 < scatter[2] / scatter[0] < 200

try:
    check_gradients(lambda m: f(draw(m)).mean(), np.array([mu]), np.array([2 * (mu - a)]))
    raise AssertionError("a random f was accepted")
except ValueError as refusal:
    print("check_gradients:", str(refusal).split(":")[0])

# %%
# The trick / トリック
# --------------------
# Put the randomness where neither mu nor sigma is:
#
# .. math:: z = \mu + \sigma \epsilon, \quad \epsilon \sim N(0, 1), \quad \sigma = e^{logvar / 2}
#
# This z has the same distribution, and for a given eps it is an ordinary function:
#
# .. math::
#    \frac{\partial z}{\partial \mu} = 1, \qquad
#    \frac{\partial z}{\partial logvar} = \epsilon \frac{\partial \sigma}{\partial logvar}
#    = \tfrac12 \epsilon \sigma
#
# The distribution of eps contains no parameter. So the derivative of the average is the average of
# the derivatives, if f is differentiable (a kink, as in ReLU, does no harm; a jump does):
#
# .. math::
#    \frac{d}{d\mu} E[f(z)] = E[f'(z)], \qquad
#    \frac{d}{dlogvar} E[f(z)] = E[f'(z) \, \tfrac12 \epsilon \sigma]
#
# One eps gives an unbiased estimate of both, the *pathwise* estimate (Kingma, Welling 2014, section
# 2.4). NumPy's own generator makes normal numbers this way; the trick is to take eps out of it.
#
# 乱数を、muもsigmaも含まないepsに移します。z = mu + sigma epsの分布は元と同じで、epsを固定すれば
# muとlogvarのふつうの関数になり、微分は1とeps sigma / 2です。epsの分布はパラメータを含まないので、
# fが微分可能なら、期待値の微分は微分の期待値に等しくなります（ReLUのような折れ点は構いませんが、
# 段差があると成り立ちません）。epsを1個使うだけで、両方の微分の不偏な推定値が得られます。これを
# パスワイズ勾配推定量と呼びます（Kingma, Welling 2014）。NumPyの乱数生成器も、中では同じ
# 計算をしています。そこからepsを外に取り出すのが、このトリックです。


class Trick:
    """z = mu + exp(logvar / 2) * eps, all (B, L)."""

    def forward(self, mu, logvar, eps):
        """Return z and remember what backward needs."""
        self.sigma_eps = np.exp(logvar / 2) * eps
        return mu + self.sigma_eps

    def backward(self, dz):
        """Return dmu = dz and dlogvar = dz * eps * sigma / 2."""
        return dz, dz * self.sigma_eps / 2


inside = np.random.default_rng(7).normal(mu, sigma, size=5)
outside = mu + sigma * np.random.default_rng(7).standard_normal(5)
np.testing.assert_allclose(inside, outside, rtol=1e-14)

# %%
# With eps held fixed the loss is deterministic, and the gradient check is the ordinary one. The
# library's ``Reparameterize`` gives the same numbers.
#
# epsを固定すれば損失に乱数がなくなり、ふつうの勾配確認ができます。ライブラリのReparameterizeが同じ
# 値を返すことも確かめます。

m, v, eps, dz = rng.normal(size=(4, 5, 3))  # B = 5, L = 3
report = check_layer(Trick(), m, v, eps)
report.raise_if_wrong()
print(f"\ngradient check with eps held fixed: {report.verdict}, relative error {report.worst:.0e}")
own, library = Trick(), Reparameterize()
np.testing.assert_allclose(library.forward(m, v, eps), own.forward(m, v, eps), rtol=1e-13)
np.testing.assert_allclose(library.backward(dz), own.backward(dz), rtol=1e-13)

# %%
# The rival: the score function / 比較相手：スコア関数
# ----------------------------------------------------
# Differentiate the density instead of the sample. With :math:`\nabla q = q \nabla \log q`,
#
# .. math::
#    \nabla \int q(z) f(z) \, dz = \int q(z) f(z) \nabla \log q(z) \, dz = E[f(z) \nabla \log q(z)]
#
# and, with log q from lesson 9 and :math:`z - \mu = \sigma \epsilon`,
#
# .. math::
#    \frac{\partial \log q}{\partial \mu} = \frac{\epsilon}{\sigma}, \qquad
#    \frac{\partial \log q}{\partial logvar} = \tfrac12 (\epsilon^2 - 1)
#
# This *score-function* estimate (REINFORCE, Williams 1992) needs the value of f and not its
# derivative. Since :math:`E[\nabla \log q] = 0`, a constant may be subtracted from f: such a
# baseline changes the variance and not the mean.
#
# もう1つの方法は、標本ではなく確率密度を微分することです。上の式から得られる
# スコア関数推定量（REINFORCE、Williams 1992）は、fの値だけを使い、fの微分を必要としません。log qの
# 勾配の期待値は0なので、fから定数（ベースライン）を引いても期待値は変わらず、分散だけが変わります。


def estimates(sigma, eps):
    """One-draw estimates of (d/dmu, d/dlogvar) for latent 0, from eps (N, L), by three methods."""
    z, e = mu + sigma * eps, eps[:, 0]
    value, slope = f(z), 2 * (z - a)[:, 0]
    centred = value - eps.shape[1] * ((mu - a) ** 2 + sigma**2)  # the baseline is E[f]
    score = e / sigma, (e**2 - 1) / 2
    return {
        "pathwise": (slope, slope * e * sigma / 2),
        "score function": (value * score[0], value * score[1]),
        "score, baseline E[f]": (centred * score[0], centred * score[1]),
    }


by_method = estimates(sigma, rng.standard_normal((n, 1)))
print(f"\n{'one draw of':12}{'method':22} exact   mean of {n:,}  variance    ratio")
for i, (name, exact) in enumerate({"d/dmu": 2 * (mu - a), "d/dlogvar": sigma**2}.items()):
    for method, pair in by_method.items():
        mean, variance = pair[i].mean(), pair[i].var()
        ratio, error = variance / by_method["pathwise"][i].var(), math.sqrt(variance / n)
        print(f"{name:12}{method:22}{exact:6.2f}{mean:9.4f} ± {error:.4f}{variance:10.2f}", end="")
        print(f"{ratio:9.1f}")
        assert abs(mean - exact) < 5 * error  # unbiased
        assert method == "pathwise" or ratio > 2

# %%
# All are unbiased. They differ in variance, and the number of draws that the same error takes is in
# proportion to it. For this f and d = mu - a, the variances of d/dmu have a closed form:
#
# .. math::
#    \mathrm{Var}_{path} = 4 \sigma^2, \qquad
#    \mathrm{Var}_{score} = d^4 / \sigma^2 + 14 d^2 + 15 \sigma^2
#
# As sigma shrinks, the first vanishes and the second explodes (unless d = 0). And the score of one
# latent multiplies the whole of f, the other latents' shares included: its variance grows with L.
# Here the pathwise derivative by one latent does not contain the others.
#
# どれも不偏で、違うのは分散です。同じ誤差を得るのに必要な標本の数は、分散に比例します。d = mu -
# aとすると、muでの微分の推定量の分散は上の式です。sigmaが小さくなると、パスワイズの分散は0に
# 近づき、スコア関数の分散は発散します（mu = aの場合を除く）。また、スコア関数では、1つの潜在変数の
# 勾配に、ほかの潜在変数の分まで含むf全体が掛かります。そのためLとともに分散が増えます。この例の
# パスワイズの勾配には、ほかの潜在変数は入りません。

print("\nvariance of d/dmu at latent 0     L = 1    L = 10   L = 100")
table = {name: [] for name in by_method}
for n_latent in (1, 10, 100):
    for method, (dmu, _) in estimates(sigma, rng.standard_normal((20_000, n_latent))).items():
        table[method].append(dmu.var())
for method, row in table.items():
    print(f"{method:28}" + "".join(f"{variance:10.2f}" for variance in row))
np.testing.assert_allclose(table["pathwise"], 4 * sigma**2, rtol=0.1)
assert table["score function"][2] > 500 * table["score function"][0]
assert table["score, baseline E[f]"][2] > 50 * table["pathwise"][2]

# %%
# Pathwise is not always better. Its variance comes from the slope of f, that of the score function
# from the size of f. For a fast ripple, f(z) = cos(k z) with k = 20, the score function wins by far
# (as in Mohamed et al. 2020, "Monte Carlo gradient estimation in machine learning"). And where f
# jumps, the pathwise estimate is wrong: "1 if z > 0, else 0" has slope 0 wherever it has a slope,
# while P(z > 0) does change with mu. So there is no such gradient for a discrete z. A decoder is
# continuous in z, and for it the trick is the usual choice.
#
# パスワイズがいつも優れているわけではありません。その分散はfの傾きから、スコア関数の分散はfの
# 大きさから生じます。細かく波打つcos(20z)では、スコア関数のほうがはるかに優れています（Mohamed et
# al. 2020）。さらに、fに段差があると、パスワイズ推定は正しくありません。「z > 0なら1、それ以外は0」
# の傾きは、存在する所ではどこでも0ですが、確率P(z > 0)はmuとともに変わります。離散的な
# 潜在変数にこの勾配を使えないのは、このためです。デコーダはzについて連続なので、ふつうはこの
# トリックを使います。

eps = rng.standard_normal(n)
z = mu + sigma * eps
k = 20
ripple = -k * math.sin(k * mu) * math.exp(-((k * sigma) ** 2) / 2)
jump = math.exp(-((mu / sigma) ** 2) / 2) / math.sqrt(2 * math.pi) / sigma
cases = {
    "cos(k z)": (ripple, -k * np.sin(k * z), np.cos(k * z) * eps / sigma),
    "1 if z > 0": (jump, np.zeros(n), (z > 0) * eps / sigma),
}
print("\nd/dmu of     exact    pathwise (variance)    score function (variance)")
for name, (exact, path, score) in cases.items():
    print(f"{name:11}{exact:7.3f}{path.mean():12.3f} ({path.var():6.2f})", end="")
    print(f"{score.mean():19.3f} ({score.var():4.2f})")
    assert abs(score.mean() - exact) < 5 * score.std() / math.sqrt(n)
assert cases["cos(k z)"][1].var() > 50 * cases["cos(k z)"][2].var()

# %%
# Two bugs / 2つのバグ
# --------------------
# *eps drawn twice.* A backward pass written by hand needs the eps of forward. An eps drawn anew is
# independent of dz, so that :math:`E[dz \, \epsilon \sigma / 2] = 0`: on average the reconstruction
# says nothing about sigma, and the KL alone decides it.
#
# *exp(logvar) for sigma.* ``mu + exp(logvar) * eps`` has the standard deviation sigma^2, while the
# KL reads the same logvar as log sigma^2. The line stood in an example of Keras (keras-team/keras,
# pull request 9972), in a textbook's first edition (fchollet/deep-learning-with-python-notebooks,
# issue 212), and stands in many copies. A maintainer answered that the scale of a Dense layer's
# output is irrelevant. It is not, because sampling and KL share that output. (If it is called log
# sigma and the KL takes it for that, exp is right.)
#
# 1つ目は、epsを2回生成するバグです。逆伝播には、順伝播で使ったepsが必要です。生成し直したepsはdzと
# 独立なので、再構成誤差からsigmaへ伝わる勾配の期待値が0になり、sigmaはKLだけで決まってしまいます。
#
# 2つ目は、exp(logvar)を標準偏差として使うバグです。KLは同じlogvarをlog sigma^2として読みます。この
# 行はKerasの例題（keras-team/kerasのプルリクエスト9972）と、ある教科書の
# 初版（fchollet/deep-learning-with-python-notebooksのissue 212）にあり、多くの公開コードに
# 写されています。メンテナーは「全結合層の出力のスケールは関係ない」と答えましたが、サンプリングと
# KLが同じ出力を共有する以上、関係します（出力をlog sigmaと呼び、KLでもそう扱うなら、expで
# 正しくなります）。
#
# Two checks are needed, as each bug passes one. The gradient check compares backward with forward;
# the *meaning* check asks whether z has the variance exp(logvar). What the bugs do to a training is
# measured on 20 latents with the loss :math:`E[|z - t|^2] / (2 s^2) + KL`, s = 0.3, for some target
# t. Its derivative by logvar is zero at :math:`\sigma^2 = s^2 / (1 + s^2)`, sigma = 0.287. In the
# table, drawing twice leaves sigma at the prior's 1, and the second bug reports 0.44 and samples
# with 0.19.
#
# どちらのバグも一方の確認は通ってしまうので、2種類の確認が必要です。勾配確認は逆伝播を順伝播と
# 比べます。「意味の確認」は、zの分散がexp(logvar)かどうかを調べます。学習への影響は、損失
# :math:`E[|z - t|^2] / (2 s^2) + KL` （s = 0.3、tは適当な目標）を20個の潜在変数で最小化して
# 測ります。logvarでの微分が0になるのは :math:`\sigma^2 = s^2 / (1 + s^2)`、つまりsigma = 0.287で、
# これが正しい答えです。表を見ると、1つ目のバグではsigmaが事前分布の1のままです。2つ目では、0.44と
# 報告しながら、実際には標準偏差0.19でサンプリングしています。


class DrawnTwice(Trick):
    """Bug 1: backward draws an eps of its own."""

    def backward(self, dz):
        """Use the forward of a second draw."""
        again = Trick()
        again.forward(0.0, self.logvar, rng.standard_normal(dz.shape))
        return again.backward(dz)

    def forward(self, mu, logvar, eps):
        """As it should be."""
        self.logvar = logvar
        return super().forward(mu, logvar, eps)


class VarianceAsDeviation(Trick):
    """Bug 2, with the backward pass that fits its forward."""

    def forward(self, mu, logvar, eps):
        """Return mu + exp(logvar) * eps."""
        return super().forward(mu, 2 * logvar, eps)

    def backward(self, dz):
        """Return dmu = dz and dlogvar = dz * eps * exp(logvar)."""
        return dz, 2 * super().backward(dz)[1]


s2, n_latent, batch, kl = 0.3**2, 20, 64, GaussianKL()
target, optimum = rng.normal(size=n_latent), math.sqrt(s2 / (1 + s2))
pieces = {"right": Trick(), "drawn twice": DrawnTwice(), "exp(logvar)": VarianceAsDeviation()}
curves, found = {}, {}
print("\n              gradient check   Var[z]/exp(logvar)   trained: exp(logvar/2)   sd of z")
for name, piece in pieces.items():
    verdict = check_layer(piece, m, v, rng.normal(size=m.shape)).verdict
    ratio = piece.forward(mu, logvar, eps).var() / math.exp(logvar)
    mean, log_variance, curves[name] = np.zeros((1, n_latent)), np.zeros((1, n_latent)), []
    for _ in range(1500):
        z = piece.forward(mean, log_variance, rng.standard_normal((batch, n_latent)))
        dmu, dlogvar = piece.backward((z - target) / s2 / batch)
        kl.forward(mean, log_variance)
        dmu_kl, dlogvar_kl = kl.backward()
        mean -= 0.02 * (dmu.sum(axis=0) + dmu_kl)
        log_variance -= 0.02 * (dlogvar.sum(axis=0) + dlogvar_kl)
        curves[name].append(np.exp(log_variance / 2).mean())
    found[name] = verdict == "ok", abs(ratio - 1) < 0.05, np.mean(curves[name][-500:])
    deviation = (z - mean).std()
    print(f"{name:14}{verdict:14}{ratio:12.2f}{found[name][2]:24.3f}{deviation:19.3f}")
assert found["right"][:2] == (True, True)
assert found["drawn twice"][:2] == (False, True)
assert found["exp(logvar)"][:2] == (True, False)
assert abs(found["right"][2] - optimum) < 0.01
assert found["drawn twice"][2] > 0.9  # the prior's: 1
assert found["exp(logvar)"][2] > 1.4 * optimum

figure, (left, middle, right) = new_figure(13.5, 4.3, columns=3)
for method, colour in (("score function", VERMILLION), ("pathwise", BLUE)):
    means = by_method[method][0].reshape(-1, 50).mean(axis=1)
    left.hist(means, np.linspace(-2.5, 0.5, 61), color=colour, alpha=0.6, label=method)
left.axvline(2 * (mu - a), color=INK, linestyle="--", label="exact")
left.legend(frameon=False, loc="upper left")
left.set_ylim(0, 330)
style(left, title="d/dmu estimated with 50 draws", xlabel="estimate", ylabel="of 2,000 estimates")
sigmas, d = np.exp(np.linspace(math.log(0.02), 0, 12)), mu - a
measured = [estimates(s, rng.standard_normal((20_000, 1))) for s in sigmas]
closed = {
    "score function": d**4 / sigmas**2 + 14 * d**2 + 15 * sigmas**2,
    "pathwise": 4 * sigmas**2,
}
for (method, variance), colour in zip(closed.items(), (VERMILLION, BLUE), strict=True):
    dots = np.array([by_method[method][0].var() for by_method in measured])
    np.testing.assert_allclose(dots, variance, rtol=0.3)
    middle.loglog(sigmas, variance, color=colour, label=f"{method}, closed form")
    middle.loglog(sigmas, dots, "o", color=colour, label=f"{method}, 20,000 draws")
middle.grid(color=FAINT)
middle.legend(frameon=False, fontsize=9)
style(middle, title="Variance of one draw", xlabel="σ", ylabel="variance")
for (name, curve), colour in zip(curves.items(), (BLUE, VERMILLION, "#117733"), strict=True):
    right.plot(curve, color=colour, label=name)
right.axhline(optimum, color=INK, linestyle="--", label="the right answer")
right.set_ylim(0, 1.15)
right.legend(frameon=False, loc="center right")
style(right, title="Two bugs in training", xlabel="step", ylabel="exp(logvar / 2)")
print("\nfigure:", save(figure, "out/10_reparameterization_trick.png"))

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - z = mu + sigma * eps, eps ~ N(0, I), sigma = exp(logvar / 2).
#   / 再パラメータ化トリックは、z = mu + sigma * eps。epsはN(0, I)に従い、sigma = exp(logvar / 2)。
#   logvarは分散の対数なので、2で割ってからexpを取る。
# - It moves the randomness to eps, so that backpropagation reaches mu and logvar through z.
#   / 乱数をepsに移すことで、誤差逆伝播がzを通ってmuとlogvarに届く。
# - dmu = dz, dlogvar = dz * eps * sigma / 2, with the eps of forward.
#   / 逆伝播は、dmu = dz、dlogvar = dz * eps * sigma / 2。epsは順伝播と同じものを使う。
# - It gives an unbiased gradient from one draw, usually with a small variance.
#   / 標本1個でも不偏な勾配が得られ、ふつうは分散も小さい。
# - The score function (REINFORCE) needs no derivative of f and works for discrete z, usually with a
#   larger variance. / スコア関数（REINFORCE）はfの微分が不要で離散変数にも使えるが、
#   ふつうは分散が大きい。
# - The trick needs a z that is a differentiable function of parameters and parameter-free noise.
#   / zが「パラメータと、パラメータによらないノイズ」の微分可能な関数として書けることが条件。

# %%
# Try it / 試してみよう
# ---------------------
# 1. ``logvar = math.log(2.25)``: the ratio of the variances for d/dmu falls from 7.5 to 4.1; its
#    limit for large sigma is 15/4. / ``logvar = math.log(2.25)`` にすると、d/dmuの分散の比は7.5から
#    4.1に下がります。sigmaを大きくしたときの極限は15/4です。
# 2. ``k = 2``: pathwise is better again, and the assertion on the variances stops the script.
#    / ``k = 2`` にするとパスワイズのほうが良くなり、分散のassertで止まります。
# 3. ``s2 = 3**2``: the right sigma is 0.949, and both bugs end within 0.06 of it. Where q is close
#    to the prior they hide, and the last assertion fails. / ``s2 = 3**2`` にすると、正しいsigmaは
#    0.949で、どちらのバグの結果もそこから0.06以内です。qが事前分布に近いとバグは目立たず、
#    最後のassertで止まります。
