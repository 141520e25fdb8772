r"""
9. The Gaussian KL / 正規分布のKLダイバージェンス
=================================================

| After this lesson you can derive the KL term of the VAE line by line, write its gradients, check
  both by sampling, and say what the KL the other way round would do instead.
| この講を終えると、VAEのKL項を一行ずつ導出し、その勾配を書き、両方をサンプリングで検算できます。
  KLの向きを逆にすると何が変わるかも説明できます。

| Needs lessons 1 and 3. Runs in about 1 s on two cores.
| 前提は第1講と第3講。実行時間は約1秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - KLダイバージェンス（カルバック・ライブラー情報量）
     - Kullback-Leibler divergence
   * - 事前分布、事後分布
     - prior, posterior
   * - エントロピー、交差エントロピー
     - entropy, cross-entropy
   * - モンテカルロ法
     - Monte Carlo method
   * - 正則化項
     - regularization term
"""

# %%
# What is measured / 何を測るのか
# -------------------------------
# For two densities q and p over z,
#
# .. math:: KL(q \| p) = E_q[\log q(z) - \log p(z)] = \int q(z) \log \frac{q(z)}{p(z)} \, dz
#
# in nats, the unit of the natural logarithm: the average, over draws from q, of how far log q lies
# above log p. With :math:`t = p(z)/q(z)` and :math:`\log t \le t - 1` (equality at t = 1 only),
#
# .. math:: -KL = E_q[\log t] \le E_q[t - 1] = \int p \, dz - \int q \, dz = 0
#
# so a KL is never negative, and zero only if q and p are the same. It is not symmetric and so no
# distance. In a VAE, q is q(z|x) = N(mu, diag sigma^2), which the encoder gives for each x, and p
# is the prior N(0, I).
#
# KLダイバージェンスは、qからサンプリングしたzについてlog qがlog pをどれだけ上回るかの平均で、単位は
# 自然対数のnatです。:math:`t = p(z) / q(z)` とおくと、log t ≦ t - 1から、必ず0以上で、0になるのは
# qとpが一致するときだけです。qとpを入れ替えると値が変わるので、距離ではありません。VAEでは、qは
# エンコーダがxごとに出すN(mu, diag sigma^2)、pは事前分布N(0, I)です。

import math

import numpy as np

from scratchvae import GaussianKL, MeanSquaredError
from scratchvae.gradcheck import check_gradients, check_loss
from scratchvae.plots import BLUE, FAINT, INK, VERMILLION, new_figure, save, style

rng = np.random.default_rng(0)

# %%
# The derivation, term by term / 1項ずつの導出
# --------------------------------------------
# One latent: :math:`q = N(\mu, \sigma^2)` with :math:`logvar = \log \sigma^2`, and
# :math:`p = N(0, 1)`.
#
# .. math::
#    \log q(z) &= -\tfrac12 [\log 2\pi + logvar + (z - \mu)^2 / \sigma^2] \\
#    \log p(z) &= -\tfrac12 [\log 2\pi + z^2]
#
# Two averages over q are needed: :math:`E_q[(z - \mu)^2] = \sigma^2`, which defines the variance,
# and hence :math:`E_q[z^2] = \mu^2 + \sigma^2`. Put in:
#
# .. math::
#    E_q[\log q] &= -\tfrac12 [\log 2\pi + logvar + 1] = -H(q) \\
#    E_q[\log p] &= -\tfrac12 [\log 2\pi + \mu^2 + \sigma^2] = -H(q, p) \\
#    KL &= \tfrac12 [\mu^2 + \sigma^2 - 1 - logvar]
#
# The first two are minus the entropy of q and minus the cross-entropy. :math:`\mu^2` draws the mean
# to 0. The rest draws sigma to 1: it is :math:`e^v - 1 - v` with v = logvar, and
# :math:`e^v \ge 1 + v` with equality at v = 0 only. The latents are independent under q and under
# p, so both logarithms are sums over the latents, and so is the KL. The loss averages it over the
# batch. (The same steps give :math:`KL(N(\mu, \sigma^2) \,\|\, N(m, s^2)) =
# \log (s / \sigma) + (\sigma^2 + (\mu - m)^2) / (2 s^2) - \tfrac12`.)
#
# 潜在変数が1個のとき、q = N(mu, sigma^2)、logvar = log sigma^2、p = N(0, 1)とします。必要な
# 期待値は、E[(z - mu)^2] = sigma^2とE[z^2] = mu^2 + sigma^2の2つだけです。代入すると上の3つの
# 式になります。1行目と2行目は、qのエントロピーH(q)と交差エントロピーH(q, p)の符号をそれぞれ
# 変えたもの、3行目がKLです。mu^2の項は平均を0へ、残りは分散を1へ引き寄せます。潜在変数はqでもpでも
# 互いに独立なので、対数は和になり、KLも潜在変数についての和です。損失ではバッチで平均します。（同じ
# 計算で、2つの正規分布の間では :math:`KL(N(\mu, \sigma^2) \,\|\, N(m, s^2)) =
# \log (s / \sigma) + (\sigma^2 + (\mu - m)^2) / (2 s^2) - \tfrac12`
# となり、m = 0、s = 1とすると上の式です。）


def gaussian_kl(mu, logvar):
    """KL(N(mu, diag exp(logvar)) || N(0, I)) of each example: (B, L) twice -> (B,)."""
    return (mu**2 + np.exp(logvar) - 1 - logvar).sum(axis=1) / 2


def log_normal(z, mu=0.0, logvar=0.0):
    """The log-density of N(mu, exp(logvar)) at z, summed over the latents."""
    return -(math.log(2 * math.pi) + logvar + (z - mu) ** 2 / np.exp(logvar)).sum(axis=-1) / 2


# %%
# Proof by sampling / サンプリングによる検証
# ------------------------------------------
# A Monte Carlo estimate is an average over draws; its standard error is the standard deviation of
# one draw over :math:`\sqrt N`. The three derived lines are compared with their estimates from
# N = 100,000 draws, for four q at once.
#
# モンテカルロ法による推定値は標本の平均で、その標準誤差は標本1個の標準偏差を√Nで割ったものです。
# 導いた3つの式を、4つのqについて、それぞれ10万個の標本による推定値と比べます。

B, L, N = 4, 3, 100_000
mu, logvar = rng.normal(size=(B, L)), rng.normal(size=(B, L))
z = mu + np.exp(logvar / 2) * rng.standard_normal((N, B, L))
log_q, log_p = log_normal(z, mu, logvar), log_normal(z)
constant = L * math.log(2 * math.pi)
lines = {
    "E_q[log q]": (log_q, -(constant + (logvar + 1).sum(axis=1)) / 2),
    "E_q[log p]": (log_p, -(constant + (mu**2 + np.exp(logvar)).sum(axis=1)) / 2),
    "KL": (log_q - log_p, gaussian_kl(mu, logvar)),
}
print(f"first of {B} q      derived    {N:,} draws   standard error   one draw's deviation")
for name, (draws, derived) in lines.items():
    error = draws.std(axis=0) / math.sqrt(N)
    assert (abs(draws.mean(axis=0) - derived) < 5 * error).all()
    estimate, deviation = draws.mean(axis=0)[0], draws.std(axis=0)[0]
    print(f"{name:14s} {derived[0]:12.4f} {estimate:16.4f} {error[0]:16.4f} {deviation:22.2f}")

scatter = (log_q - log_p).std(axis=0) / gaussian_kl(mu, logvar)
print("one draw's deviation over the KL, four q:", scatter.round(2))
assert scatter.min() > 0.3

# %%
# The last line says why the closed form is used wherever there is one. One draw of log q - log p is
# right on average only: for these q it scatters by 0.7 to 1.8 times the KL itself.
#
# 閉じた式があればそれを使うのは、最後の行が示す理由からです。log q - log pの標本1個は、平均すれば
# 正しいというだけで、この4つのqでは、KLの値そのものの0.7倍から1.8倍もばらつきます。
#
# The gradients / 勾配
# --------------------
# Again term by term, with the average over a batch of B:
#
# .. math:: d\mu = \mu / B, \qquad dlogvar = (e^{logvar} - 1) / (2B)
#
# ``check_gradients`` (lesson 1) holds them against numerical derivatives. The library's
# ``GaussianKL`` has to give the same numbers, and to pass the same check. It writes
# :math:`e^v - 1` as ``expm1(v)``, which keeps the digits that the subtraction loses near v = 0: in
# float32, at logvar = 0.0001, the plain formula gives more than three times the KL.
#
# 勾配も項ごとに求まります。第1講のcheck_gradientsで数値微分と照合し、ライブラリのGaussianKLが同じ
# 値を返すことを確かめます。ライブラリはexp(v) - 1の代わりにexpm1(v)を使い、v = 0の近くでの桁落ちを
# 避けています。float32でlogvar = 0.0001のとき、素朴な式は正しいKLの3倍を超える値を返します。


def gaussian_kl_gradients(mu, logvar):
    """The gradients of the batch mean of ``gaussian_kl``: (dmu, dlogvar), (B, L) each."""
    return mu / len(mu), (np.exp(logvar) - 1) / (2 * len(mu))


dmu, dlogvar = gaussian_kl_gradients(mu, logvar)
report = check_gradients(
    lambda p: gaussian_kl(p["mu"], p["logvar"]).mean(),
    {"mu": mu, "logvar": logvar},
    {"mu": dmu, "logvar": dlogvar},
)
report.raise_if_wrong()
print(f"\ngradient check: {report.verdict}, relative error {report.worst:.0e}")

library = GaussianKL()
np.testing.assert_allclose(library.per_example(mu, logvar), gaussian_kl(mu, logvar), rtol=1e-13)
np.testing.assert_allclose(library.forward(mu, logvar), gaussian_kl(mu, logvar).mean(), rtol=1e-13)
np.testing.assert_allclose(library.backward(), (dmu, dlogvar), rtol=1e-12)
check_loss(GaussianKL(), mu, logvar).raise_if_wrong()

tiny, zero = np.full((1, 1), 1e-4, dtype=np.float32), np.zeros((1, 1), dtype=np.float32)
exact = float(tiny[0, 0]) ** 2 / 4  # e^v - 1 - v = v^2 / 2 + v^3 / 6 + ...
plain, careful = gaussian_kl(zero, tiny)[0], library.per_example(zero, tiny)[0]
assert plain > 3 * exact
assert abs(careful / exact - 1) < 0.01
print(f"float32, logvar = 0.0001: KL {exact:.2e}, plain {plain:.2e}, with expm1 {careful:.2e}")

# %%
# The other way round / 向きを逆にすると
# --------------------------------------
# Averaging over p instead, with :math:`E_p[(z - \mu)^2] = 1 + \mu^2`:
#
# .. math:: KL(p \| q) = \tfrac12 [(1 + \mu^2) / \sigma^2 - 1 + logvar]
#
# Near q = p both directions are :math:`(\mu^2 + logvar^2 / 2) / 2` to second order. Far away they
# part. A q much narrower than p costs about :math:`-\log \sigma` one way and
# :math:`1 / (2 \sigma^2)` the other, because draws from p fall where q has almost no mass.
#
# 今度はpで平均します。q = pの近くでは、2つの向きは2次の項まで一致します。離れると違いが出ます。qが
# pよりずっと狭いとき、KL(q||p)はおよそ-log sigma、KL(p||q)はおよそ1/(2 sigma^2)です。pからの
# 標本が、qの確率がほとんどない場所に落ちるからです。


def reverse_kl(mu, logvar):
    """KL(N(0, I) || N(mu, diag exp(logvar))) of each example, (B,)."""
    return ((1 + mu**2) / np.exp(logvar) - 1 + logvar).sum(axis=1) / 2


z = rng.standard_normal((N, B, L))
draws = log_normal(z) - log_normal(z, mu, logvar)
error = draws.std(axis=0) / math.sqrt(N)
assert (abs(draws.mean(axis=0) - reverse_kl(mu, logvar)) < 5 * error).all()

print("\n   mu   sigma    KL(q||p)    KL(p||q)")
for m, sigma in ((0, 1.05), (0, 0.5), (0, 0.1), (0, 10), (1, 0.1)):
    q = np.array([[m]]), np.array([[2 * math.log(sigma)]])
    print(f"{m:5} {sigma:7} {gaussian_kl(*q)[0]:11.4f} {reverse_kl(*q)[0]:11.4f}")
close = np.array([[0.01]]), np.array([[0.02]])
assert abs(reverse_kl(*close) / gaussian_kl(*close) - 1) < 0.03

# %%
# The direction matters most where q cannot equal its target. Let the target t be two bumps,
# :math:`\tfrac12 N(-a, 1) + \tfrac12 N(a, 1)`, and q one Gaussian. :math:`KL(t \| q)` is least
# where q has the mean and the variance of t, 0 and :math:`1 + a^2`: q covers both.
# :math:`KL(q \| t)` punishes q for mass where t has little, and is said to "seek one mode". So it
# does where the bumps are far apart. But in the table its least value lies midway between the bumps
# up to a = 2.5, five standard deviations from bump to bump, and on one of them only from a = 3 on.
#
# 向きの違いが大きく現れるのは、qが目標に一致できないときです。目標tを2つの山の混合分布
# :math:`\tfrac12 N(-a, 1) + \tfrac12 N(a, 1)`、qを1つの正規分布とします。KL(t||q)が最小になるのは
# 平均と分散がtと等しいqで、両方の山を覆います。KL(q||t)は、tの確率が小さい場所にqが広がると
# ペナルティを課すので、「1つの山を選ぶ」と言われます。山が十分に離れていれば、その通りです。しかし
# 表では、a = 2.5（山の間隔が標準偏差の5倍）までは2つの山の中央で最小になり、片方の山で
# 最小になるのはa = 3からです。

eps = np.linspace(-8, 8, 161)  # quadrature: E_q[f(z)] = sum_k weight_k f(mu + sigma eps_k)
weight = np.exp(-(eps**2) / 2) / np.exp(-(eps**2) / 2).sum()
means, logvars = np.linspace(0, 4, 41), np.linspace(-1, 3, 81)


def best_one_bump(a):
    """The (mu, sigma) on a grid with the least KL(q || t), and that KL."""
    z = means[:, None, None] + np.exp(logvars / 2)[:, None] * eps
    log_t = np.logaddexp(log_normal(z[..., None], a), log_normal(z[..., None], -a)) - math.log(2)
    kl = -(math.log(2 * math.pi) + logvars + 1) / 2 - log_t @ weight
    i, j = np.unravel_index(kl.argmin(), kl.shape)
    return means[i], math.exp(logvars[j] / 2), kl[i, j]


print("\n    a   least KL(q||t) at mu, sigma     KL   least KL(t||q) at mu, sigma")
for a in (1.5, 2.0, 2.5, 3.0, 3.5):
    m, sigma, least = best_one_bump(a)
    print(f"{a:5} {m:19.1f} {sigma:8.2f} {least:8.3f} {0:18.1f} {math.sqrt(1 + a * a):8.2f}")
    assert m == 0 if a <= 2.8 else abs(m - a) < 0.15

# %%
# In a VAE there is no choice: KL(q(z|x) || N(0, I)) is what the derivation of the ELBO gives
# (lesson 11), and an average over q is what draws from the encoder can estimate.
#
# VAEにはKLの向きを選ぶ余地はありません。変分下限（第11講）を導くと、KL(q(z|x) || N(0, I))が
# 現れます。エンコーダの出すqからの標本で推定できるのも、qについての平均です。
#
# Sum over the latents, never mean / 潜在変数については平均ではなく和
# -------------------------------------------------------------------
# A latent that sits at the prior carries nothing, and adding it must not change the KL: the sum
# stays, the mean falls. And it is the sum that log q - log p gives on average over draws. The mean
# is another objective, with the KL weighted by 1/L. A gradient check cannot tell: the mean's
# gradients are right for the mean.
#
# 事前分布に一致した潜在変数は何の情報も運ばないので、それを加えてもKLが変わってはいけません。和なら
# 変わらず、平均なら小さくなります。log q - log pの標本平均に一致するのも和です。平均を使うと、KLの
# 重みを1/Lにした別の目的関数になります。勾配確認では見つかりません。平均の勾配は、平均については
# 正しいからです。


def mean_kl(mu, logvar):
    """The mistake: averaged over the latents."""
    return (mu**2 + np.exp(logvar) - 1 - logvar).mean(axis=1) / 2


wide = [np.hstack([part, np.zeros((B, 17))]) for part in (mu, logvar)]  # 17 latents at the prior
np.testing.assert_allclose(gaussian_kl(*wide), gaussian_kl(mu, logvar), rtol=1e-14)
np.testing.assert_allclose(mean_kl(*wide), mean_kl(mu, logvar) * 3 / 20, rtol=1e-14)

L = 20
mu, logvar = rng.normal(size=(1, L)), rng.normal(size=(1, L))
z = mu + np.exp(logvar / 2) * rng.standard_normal((N, L))
draws = log_normal(z, mu, logvar) - log_normal(z)
error = draws.std() / math.sqrt(N)
assert abs(draws.mean() - gaussian_kl(mu, logvar)[0]) < 5 * error
assert abs(draws.mean() - mean_kl(mu, logvar)[0]) > 8 * error
blind = check_gradients(
    lambda p: mean_kl(p["mu"], p["logvar"]).mean(),
    {"mu": mu, "logvar": logvar},
    {"mu": mu / L, "logvar": (np.exp(logvar) - 1) / (2 * L)},
)
assert blind.ok
print(f"\n{L} latents: {N:,} draws {draws.mean():.2f} +- {error:.2f} nats,", end=" ")
print(f"sum {gaussian_kl(mu, logvar)[0]:.2f}, mean {mean_kl(mu, logvar)[0]:.2f}")
print(f"gradient check of the mean: {blind.verdict} (it compares backward with forward, no more)")

# %%
# The same slip on the other side: a mean squared error divides by the D pixels, while a Gaussian
# negative log-likelihood with sigma = 1 has, but for a constant, half the sum of the squares
# (lesson 3), D/2 times as much. So MSE + KL = 2/D [half the sum + D/2 KL]: for D = 784 the KL
# counts 392 times.
#
# 同じ誤りは再構成誤差の側でも起こります。平均二乗誤差はD個の画素で割りますが、sigma = 1の正規分布の
# 負の対数尤度に入るのは、定数を除いて二乗誤差の和の半分（第3講）で、平均二乗誤差のD/2倍です。
# 平均二乗誤差にKLを足すと、D = 784ではKLの重みが392倍になります。

x, y, kl = rng.random((B, 784)), rng.random((B, 784)), 25.0
half_sum = ((x - y) ** 2).sum(axis=1).mean() / 2
mse = MeanSquaredError().forward(y, x)
np.testing.assert_allclose(mse + kl, 2 / 784 * (half_sum + 392 * kl), rtol=1e-12)

figure, (left, *right) = new_figure(13.5, 4.3, columns=3)
sigmas = np.exp(np.linspace(math.log(0.1), math.log(10), 200))[:, None]
for function, name, colour in (
    (gaussian_kl, "KL(q || p)", BLUE),
    (reverse_kl, "KL(p || q)", VERMILLION),
):
    left.loglog(sigmas, function(np.zeros_like(sigmas), 2 * np.log(sigmas)), c=colour, label=name)
left.set_ylim(1e-3, 100)
left.grid(color=FAINT)
left.legend(frameon=False, loc="upper center")
style(left, title="q = N(0, σ²), p = N(0, 1)", xlabel="σ", ylabel="nats")
z = np.linspace(-9, 9, 400)[:, None]
for ax, a in zip(right, (2.0, 3.5), strict=True):
    target = (np.exp(log_normal(z, a)) + np.exp(log_normal(z, -a))) / 2
    ax.fill_between(z[:, 0], target, color=FAINT, label="target t")
    ax.plot(z, target, color=INK, linewidth=0.8)
    m, sigma, _ = best_one_bump(a)
    one, all_of_it = log_normal(z, m, 2 * math.log(sigma)), log_normal(z, 0, math.log(1 + a * a))
    ax.plot(z, np.exp(one), color=BLUE, label="least KL(q || t)")
    ax.plot(z, np.exp(all_of_it), color=VERMILLION, label="least KL(t || q)")
    ax.set_ylim(0, 0.48)
    ax.legend(frameon=False, loc="upper left")
    style(ax, title=f"two bumps, {2 * a:g} apart", xlabel="z", ylabel="density")
print("\nfigure:", save(figure, "out/09_gaussian_kl.png"))

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - 1 - log sigma^2) / 2.
#   / 標準正規分布とのKL：KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - 1 - log sigma^2) / 2。
#   潜在変数ごとに計算して和を取る。
# - KL is at least 0, and 0 only if q = p. / KLは0以上で、0になるのはq = pのときだけ。
# - KL(q||p) and KL(p||q) differ: it is no distance. / 非対称なので距離ではない。
# - d/dmu = mu, d/dlogvar = (sigma^2 - 1) / 2: descent leads to the prior; the regularization term.
#   / muでの微分はmu、logvarでの微分は(sigma^2 - 1) / 2。勾配降下でqは事前分布N(0, 1)に近づく。
#   だから正則化項と呼ばれる。
# - Sum over the latents, mean over the batch. / 潜在変数については和、バッチについては平均。
# - Least KL(t||q) covers all of t; least KL(q||t) avoids where t is small, and lies on one mode if
#   the modes are far apart. / KL(t||q)の最小化はt全体を覆い、KL(q||t)の最小化はtの小さい場所を
#   避ける。山が遠く離れていれば1つの山に寄る。
# - Cross-entropy = entropy + KL. / 交差エントロピー = エントロピー + KL。

# %%
# Try it / 試してみよう
# ---------------------
# 1. N = 100: the standard errors grow by about 32 (the square root of 1000), and "mean" can still
#    be told from "sum". / N = 100にすると標準誤差は約32倍（1000の平方根）になりますが、「平均」と
#    「和」の区別はまだつきます。
# 2. ``.mean(axis=1)`` in ``gaussian_kl``: the comparison with the draws stops the script.
#    / ``gaussian_kl`` を ``.mean(axis=1)`` に変えると、標本との比較で止まります。
# 3. Add a = 2.8 and 2.9 to the table: in between, the least KL(q||t) jumps from the middle to a
#    bump. / 表にa = 2.8と2.9を加えると、その間で最小点が中央から片方の山に飛び移ります。
