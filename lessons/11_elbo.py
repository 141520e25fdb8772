r"""
11. The ELBO / 変分下限（ELBO）
===============================

| After this lesson you can derive log p(x) = ELBO + KL(q(z|x) || p(z|x)), say which of the three a
  VAE computes and why that is enough, and tighten the bound in two ways.
| この講を終えると、log p(x) = ELBO + KL(q(z|x) || p(z|x))を導出できます。VAEが計算するのは
  3つのうちどれか、なぜそれで足りるのかを説明でき、下限を2通りの方法で真の値に近づけられます。

| Needs lessons 4, 6, 9 and 10. Runs in about 3 s on two cores.
| 前提は第4講、第6講、第9講、第10講。実行時間は約3秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - 変分下限、エビデンス下界
     - evidence lower bound (ELBO), variational lower bound
   * - 周辺尤度（エビデンス）、対数尤度
     - marginal likelihood (evidence), log-likelihood
   * - 変分推論、近似事後分布
     - variational inference, approximate posterior
   * - 再構成誤差、正則化項
     - reconstruction error, regularization term
   * - イェンセンの不等式
     - Jensen's inequality
   * - 事後崩壊
     - posterior collapse
   * - 主成分分析、確率的主成分分析
     - principal component analysis (PCA), probabilistic PCA
"""

# %%
# The identity / 等式
# -------------------
# A latent-variable model draws z from the prior p(z), then x from p(x|z). Maximum likelihood needs
# :math:`p(x) = \int p(x|z) p(z) \, dz`. For a neural decoder this integral has no closed form, nor
# has the posterior p(z|x) = p(x|z) p(z) / p(x). So take any density q(z|x). As log p(x) does not
# depend on z, it is its own average over q; and p(x) = p(x, z) / p(z|x):
#
# .. math::
#    \log p(x) &= E_q[\log p(x)] = E_q[\log p(x, z) - \log p(z|x)] \\
#    &= \underbrace{E_q[\log p(x, z) - \log q(z|x)]}_{ELBO}
#     + \underbrace{E_q[\log q(z|x) - \log p(z|x)]}_{KL(q(z|x) \| p(z|x)) \; \ge \; 0}
#
# This is an equation, for every q. The KL is not negative, so the ELBO is a lower bound of
# log p(x), and tight only if q is the posterior. (Jensen's inequality gives the bound without the
# gap.) With p(x, z) = p(x|z) p(z) it reads
#
# .. math:: ELBO = E_q[\log p(x|z)] - KL(q(z|x) \| p(z))
#
# which contains neither p(x) nor p(z|x): minus the reconstruction error, minus lesson 9's KL.
#
# 潜在変数モデルの最尤推定にはp(x)が必要ですが、デコーダがニューラルネットワークだと積分が閉じた
# 式にならず、事後分布p(z|x)も求まりません。そこで任意の分布q(z|x)を使います。log p(x)は
# zによらないので、qで平均しても変わりません。p(x) = p(x, z) / p(z|x)を代入し、log q(z|x)を足して
# 引くと、上の等式になります。どんなqでも成り立つ等式です。KLは0以上なので、ELBOはlog p(x)の下限で、
# 一致するのはqが事後分布のときだけです（イェンセンの不等式では、下限であることは分かっても、差は
# 分かりません）。ELBOは「再構成誤差の符号を変えたもの」から「第9講のKL」を引いた式で、計算できない
# 項を含みません。

import math

import numpy as np

from scratchvae import VAE, Adam, GaussianKL, GaussianNLL, Reparameterize
from scratchvae.datasets import mnist10k
from scratchvae.evaluate import PCA, importance_weighted_bound
from scratchvae.gradcheck import check_gradients, check_loss, check_model
from scratchvae.plots import BLUE, FAINT, INK, VERMILLION, new_figure, save, style
from scratchvae.train import fit

rng = np.random.default_rng(0)
LOG_2PI = math.log(2 * math.pi)

# %%
# A model in which every term is known / すべての項が分かるモデル
# ---------------------------------------------------------------
# Let the decoder be linear: p(z) = N(0, I), p(x|z) = N(z W + b, s^2 I), W (L, D). Then x is a sum
# of Gaussians, and completing the square in z gives the posterior (Bishop 2006, section 2.3.3):
#
# .. math::
#    p(x) &= N(b, \; W^T W + s^2 I) \\
#    p(z|x) &= N(m, M^{-1}), \quad M = I + W W^T / s^2, \quad m = (x - b) W^T M^{-1} / s^2
#
# For q = N(mu, diag exp(logvar)) the ELBO has a closed form, too: with W_j the rows of W,
# :math:`E_q |x - b - zW|^2 = |x - b - \mu W|^2 + \sum_j e^{logvar_j} |W_j|^2`. The gap is the KL
# between two Gaussians, one with a full covariance. Each of the three is computed on its own. In
# the table they add up for the worst q as for the best: to 1e-10, and really to rounding error.
#
# デコーダを線形にして、p(z) = N(0, I)、p(x|z) = N(z W + b, s^2 I)とします（Wは(L, D)）。p(x)も
# 事後分布p(z|x)も正規分布になり、すべての項が閉じた式で書けます（Bishop 2006）。3つの項を別々に
# 計算して、等式を確かめます。表のとおり、悪いqでも良いqでも等式は成り立ち、誤差は1e-10よりはるかに
# 小さい丸め誤差だけです。


def evidence(x, W, b, s):
    """Return log p(x), (B,)."""
    C, r = W.T @ W + s**2 * np.eye(len(b)), x - b
    return -((r @ np.linalg.inv(C) * r).sum(axis=1) + np.linalg.slogdet(2 * np.pi * C)[1]) / 2


def posterior(x, W, b, s):
    """Return the mean m (B, L) and the precision M (L, L) of p(z|x)."""
    M = np.eye(len(W)) + W @ W.T / s**2
    return (x - b) @ W.T @ np.linalg.inv(M) / s**2, M


def elbo(x, mu, logvar, W, b, s):
    """Return the ELBO of each x, (B,), for q = N(mu, diag exp(logvar))."""
    squares = ((x - b - mu @ W) ** 2).sum(axis=1) + np.exp(logvar) @ (W**2).sum(axis=1)
    log_px = -(len(b) * (LOG_2PI + 2 * math.log(s)) + squares / s**2) / 2
    return log_px - GaussianKL().per_example(mu, logvar)


def gap(x, mu, logvar, W, b, s):
    """Return KL(q(z|x) || p(z|x)), (B,), by linear algebra."""
    m, M = posterior(x, W, b, s)
    trace = np.exp(logvar) @ np.diag(M) + ((mu - m) @ M * (mu - m)).sum(axis=1)
    return (trace - len(W) - np.linalg.slogdet(M)[1] - logvar.sum(axis=1)) / 2


B, D, L, s = 200, 7, 3, 0.5
W, b = rng.normal(size=(L, D)), rng.normal(size=D)
x = rng.normal(size=(B, L)) @ W + b + s * rng.normal(size=(B, D))
m, M = posterior(x, W, b, s)
qs = {
    "the prior": (np.zeros((B, L)), np.zeros((B, L))),
    "random": (rng.normal(size=(B, L)), rng.normal(size=(B, L))),
    "best diagonal": (m, np.tile(-np.log(np.diag(M)), (B, 1))),
}
truth = evidence(x, W, b, s)
print(f"mean of {B} x        ELBO + KL(q||p(z|x)) =       sum    log p(x)   largest error")
for name, q in qs.items():
    bound, kl = elbo(x, *q, W, b, s), gap(x, *q, W, b, s)
    error = abs(bound + kl - truth).max()
    print(f"{name:14}{bound.mean():11.4f} + {kl.mean():13.4f} = {(bound + kl).mean():9.4f}", end="")
    print(f"{truth.mean():12.4f}{error:16.0e}")
    assert error < 1e-10
    assert (bound < truth).all()

# %%
# The linear VAE, whole / 線形VAEの全体
# -------------------------------------
# The reconstruction error is -log p(x|z): for each pixel, with y = z W + b,
# :math:`((x - y)^2 / s^2 + 2 \log s + \log 2\pi) / 2`, and its derivative by y is
# :math:`(y - x) / s^2`. That is ``GaussianNLL(s)``. Between three dense layers, lesson 10's trick
# and lesson 9's gradients, it makes a VAE; the library's gives the same gradients.
#
# For a linear decoder the error is quadratic in eps. The 2 L points :math:`\pm \sqrt L e_j` have
# mean 0 and covariance I, so that a quadratic has the same average over them as over N(0, I). This
# way the library's three pieces must give the ELBO of the table above, without noise.
#
# 再構成誤差は-log p(x|z)で、ライブラリのGaussianNLLがこれです。3つの全結合層、第10講のトリック、
# 第9講の勾配と組み合わせれば、VAEの全体になります。NumPyで書いたものが、ライブラリの勾配と一致する
# ことを確かめます。また、デコーダが線形なら再構成誤差はepsの2次式です。平均0、共分散Iの2L個の点で
# 平均すれば、N(0, I)での期待値に厳密に一致するので、ライブラリの部品からも同じELBOが得られます。

nll, y = GaussianNLL(s), rng.normal(size=(B, D))
by_hand = (((x - y) ** 2 / s**2 + 2 * math.log(s) + LOG_2PI) / 2).sum(axis=1)
np.testing.assert_allclose(nll.per_example(y, x), by_hand, rtol=1e-12)
nll.forward(y, x)
np.testing.assert_allclose(nll.backward(), (y - x) / s**2 / B, rtol=1e-12)
check_loss(GaussianNLL(s), y[:4], x[:4]).raise_if_wrong()

points = math.sqrt(L) * np.vstack([np.eye(L), -np.eye(L)])
zs = [Reparameterize().apply(*qs["random"], np.tile(point, (B, 1))) for point in points]
by_pieces = -np.mean([nll.per_example(z @ W + b, x) for z in zs], axis=0)
by_pieces -= GaussianKL().per_example(*qs["random"])
assert abs(by_pieces - elbo(x, *qs["random"], W, b, s)).max() < 1e-10


def linear_vae(p, x, eps, s):
    """Return the gradients of -ELBO, one draw for each x, by the parameters p, by name."""
    mu, logvar = (x @ p[f"{head}.W"] + p[f"{head}.b"] for head in ("to_mu", "to_logvar"))
    sigma_eps = np.exp(logvar / 2) * eps
    z = mu + sigma_eps
    y = z @ p["decoder.0.W"] + p["decoder.0.b"]
    dy = (y - x) / s**2 / len(x)
    dz = dy @ p["decoder.0.W"].T
    dmu = dz + mu / len(x)
    dlogvar = dz * sigma_eps / 2 + (np.exp(logvar) - 1) / 2 / len(x)
    pairs = {"to_mu": (x, dmu), "to_logvar": (x, dlogvar), "decoder.0": (z, dy)}
    weights = {f"{name}.W": below.T @ above for name, (below, above) in pairs.items()}
    return weights | {f"{name}.b": above.sum(axis=0) for name, (_, above) in pairs.items()}


vae, eps = VAE(D, (), L, likelihood="gaussian", sigma=s, dtype="float64"), rng.normal(size=(5, L))
vae.forward(x[:5], eps)
vae.backward()
own = linear_vae(vae.named_parameters(), x[:5], eps, s)
for name, gradient in vae.named_gradients().items():
    np.testing.assert_allclose(own[name], gradient, rtol=1e-9, atol=1e-12)
check_model(vae, x[:5], eps).raise_if_wrong()

# %%
# Tightening the bound: move q / 下限を真の値に近づける：qを動かす
# ----------------------------------------------------------------
# log p(x) does not depend on q, so what the ELBO gains by moving q, the KL to the posterior loses.
# The gradients of -ELBO are
#
# .. math:: d\mu = (\mu - m) M, \qquad dlogvar_j = (e^{logvar_j} M_{jj} - 1) / 2
#
# zero at mu = m, exp(logvar_j) = 1 / M_jj. If the rows of W are orthogonal, M is diagonal, this q
# is the posterior, and the bound is tight. If not, the posterior's latents are correlated, which a
# diagonal q cannot follow: :math:`\tfrac12 (\sum_j \log M_{jj} - \log |M|)` remains.
#
# log p(x)はqによらないので、qを動かしてELBOが上がった分だけ、事後分布へのKLが下がります。Wの行が
# 直交していれば事後分布の共分散は対角で、qは事後分布に一致し、下限は真の値に届きます。
# 直交していなければ、事後分布の潜在変数には相関があり、共分散が対角のqでは表せないので、差
# :math:`\tfrac12 (\sum_j \log M_{jj} - \log |M|)` が残ります。


def gradients(x, mu, logvar, W, b, s):
    """Return the gradients of -ELBO, averaged over the batch, by mu and logvar."""
    m, M = posterior(x, W, b, s)
    return (mu - m) @ M / len(x), (np.exp(logvar) * np.diag(M) - 1) / 2 / len(x)


q = dict(zip(("mu", "logvar"), (part[:5] for part in qs["random"]), strict=True))
claims = dict(zip(q, gradients(x[:5], *q.values(), W, b, s), strict=True))
check_gradients(lambda q: -elbo(x[:5], *q.values(), W, b, s).mean(), q, claims).raise_if_wrong()

one, b = rng.normal(size=(1, 5)), np.zeros(5)
models = {
    "correlated rows": np.array([[1.0, 0, 0, 0, 0], [0.8, 0.6, 0, 0, 0]]),
    "orthogonal rows": np.array([[1.0, 0, 0, 0, 0], [0, 0.6, 0, 0, 0]]),
}
rises = {}
print("\nq after 800 gradient steps      log p(x)       ELBO        gap   predicted gap")
for name, W in models.items():
    mu, logvar, rise = np.full((1, 2), -1.0), np.ones((1, 2)), []
    (m, M), truth = posterior(one, W, b, s), evidence(one, W, b, s)[0]
    for _ in range(800):
        dmu, dlogvar = gradients(one, mu, logvar, W, b, s)
        mu, logvar = mu - 0.1 * dmu, logvar - 0.1 * dlogvar
        rise.append(elbo(one, mu, logvar, W, b, s)[0])
    rises[name] = np.array(rise) - truth
    predicted = (np.log(np.diag(M)).sum() - np.linalg.slogdet(M)[1]) / 2
    print(f"{name:28}{truth:12.6f}{rise[-1]:11.6f}{truth - rise[-1]:11.6f}{predicted:16.6f}")
    assert abs(rises[name][-1] + predicted) < 1e-10
    assert (np.diff(rise) > -1e-12).all()

# %%
# Where log p(x) is known, an "ELBO" above it gives a wrong term away. With lesson 10's bug,
# exp(logvar) for sigma in the sampling but not in the KL, that happens: it is no bound any more.
#
# log p(x)が分かっていれば、それを超える「ELBO」からバグが見つかります。第10講のバグ（サンプリング
# だけでexp(logvar)をsigmaとして使う）があると実際に超えてしまい、もはや下限ではありません。

logvars = np.repeat(np.linspace(-4, 1, 501)[:, None], 2, axis=1)  # W has orthogonal rows here
ms = np.repeat(m, 501, axis=0)
right, wrong = (elbo(one, ms, of_z, W, b, s) for of_z in (logvars, 2 * logvars))
wrong += GaussianKL().per_example(ms, 2 * logvars) - GaussianKL().per_example(ms, logvars)
print(f"highest over logvar: ELBO {right.max():.3f}, with the bug {wrong.max():.3f}", end="")
print(f"; log p(x) is {truth:.3f}")
assert right.max() < truth < wrong.max() - 0.1

# %%
# Tightening the bound: more samples / 下限を真の値に近づける：標本を増やす
# -------------------------------------------------------------------------
# With :math:`w = p(x, z) / q(z|x)`, :math:`E_q[w] = p(x)` for any q, while the ELBO is
# :math:`E_q[\log w]`. To average K weights *before* the logarithm gives the importance-weighted
# bound (Burda, Grosse, Salakhutdinov 2016):
#
# .. math:: L_K = E\biggl[\log \frac1K \sum_{k=1}^K w_k\biggr], \qquad L_1 = ELBO
#
# By Jensen's inequality it is at most log p(x), and it does not fall as K grows, since an average
# of K + 1 weights is the average of its K + 1 averages of K. For large K the gap is about
# :math:`\mathrm{Var}(w / p(x)) / 2K`, if that variance is finite. For a q whose standard deviations
# are r times the posterior's, it is :math:`(r^2 / \sqrt{2 r^2 - 1})^L - 1`, and infinite for
# :math:`r^2 \le 1/2`. So the ELBO is not all that counts: two q with nearly the same one, too wide
# (r = 1.5) and too narrow (r = 0.58), close in at very different speeds.
#
# 重みw = p(x, z) / q(z|x)のqでの期待値は、どんなqでもp(x)です。対数を取る前にK個の重みを
# 平均したものが、重点サンプリングによる下限L_Kです（Burda et al. 2016）。K = 1ならELBOで、Kを
# 増やしても下がらず、log p(x)を超えません。Kが大きいときの差はおよそVar(w / p(x)) / 2Kですが、
# これは分散が有限な場合です。qの標準偏差が事後分布のr倍のとき、分散は
# :math:`(r^2 / \sqrt{2 r^2 - 1})^L - 1` で、r^2 ≦ 1/2なら無限大です。つまり、qの良さはELBOだけでは
# 決まりません。広すぎるq（r = 1.5）と狭すぎるq（r = 0.58）は、ELBOはほぼ等しいのに、log p(x)に
# 近づく速さが大きく違います。

n, L = 1_000_000, 2


def log_weights(mu, logvar, eps):
    """Return log p(x|z) + log p(z) - log q(z|x) for the one x at z = mu + sigma eps, (n,)."""
    z = mu + np.exp(logvar / 2) * eps
    squares = ((one - b - z @ W) ** 2).sum(axis=1)
    log_px = -(squares / s**2 + len(b) * (LOG_2PI + 2 * math.log(s))) / 2
    return log_px + (eps**2 + logvar - z**2).sum(axis=1) / 2  # log 2 pi cancels in p(z) / q(z|x)


vae = VAE(5, (), L, likelihood="gaussian", sigma=s, dtype="float64")  # mu, logvar: its biases
parameters = vae.named_parameters()
parameters["to_mu.W"][...], parameters["to_logvar.W"][...] = 0, 0
parameters["decoder.0.W"][...], parameters["decoder.0.b"][...] = W, b
Ks, gaps = (1, 10, 100, 1000), {}
print("\nlog p(x) - L_K   " + "".join(f"{f'K = {K}':>20}" for K in Ks))
for r in (1.5, 0.58):
    logvar, gaps[r] = 2 * math.log(r) - np.log(np.diag(M))[None], []
    parameters["to_mu.b"][...], parameters["to_logvar.b"][...] = m[0], logvar[0]
    log_w = log_weights(m, logvar, rng.standard_normal((n, L)))
    for K in Ks:
        each = truth - np.log(np.exp(log_w).reshape(-1, K).mean(axis=1))
        gaps[r].append((each.mean(), error := each.std() / math.sqrt(len(each))))
        theirs = truth - importance_weighted_bound(vae, np.tile(one, (1000, 1)), min(K, 100))
        off = math.hypot(error, theirs.std() / math.sqrt(1000))
        assert K > 100 or abs(theirs.mean() - each.mean()) < 5 * off
    print(f"q, r = {r:<10}" + "".join(f"{value:11.4f} ± {error:.4f}" for value, error in gaps[r]))
    assert abs(gaps[r][0][0] - gap(one, m, logvar, W, b, s)[0]) < 5 * gaps[r][0][1]
variance = (1.5**2 / math.sqrt(2 * 1.5**2 - 1)) ** L - 1
print("Var / 2K, r = 1.5" + " " * 20 + "".join(f"{variance / 2 / K:11.4f}{'':9}" for K in Ks[1:]))
wide, narrow = ([value for value, _ in gaps[r]] for r in gaps)
assert wide[0] > wide[1] > wide[2]
assert abs(wide[1] - variance / 20) < 0.006
assert narrow[0] > narrow[1] > narrow[2] > narrow[3]
assert narrow[2] > 5 * wide[2]

parameters["to_logvar.b"][...] = -np.log(np.diag(M))  # q = p(z|x): every weight is p(x)
assert all(abs(importance_weighted_bound(vae, one, K)[0] - truth) < 1e-10 for K in (1, 7))

# %%
# Where training ends / 学習の行き着く先
# --------------------------------------
# A VAE moves q and the model at once, down the gradient of -ELBO. The ELBO rises if log p(x) rises
# or if the gap closes. Does that end at maximum likelihood? For the linear VAE it can be decided:
# the model is probabilistic PCA, whose maximum is known (Tipping, Bishop 1999). With the
# eigenvalues :math:`\lambda_j` and eigenvectors :math:`u_j` of the data's covariance,
#
# .. math::
#    s^2 = \frac{1}{D - L} \sum_{j > L} \lambda_j, \qquad
#    W_j = \sqrt{\lambda_j - s^2} \; u_j
#
# Any rotation of these rows is as good. Lucas et al. 2019 ("Don't blame the ELBO!") prove that the
# ELBO of the linear VAE has the same maximum and adds no local ones. The data: the 9,000 embedded
# training digits, averaged over 2 x 2 pixels (D = 196) and centred; L = 6. Adam trains the weights
# with one eps an image, as in any VAE. After each epoch s^2, 1 at first, is set to the epoch's mean
# squared error a pixel of the decoded samples, where the ELBO's derivative by s^2 vanishes. Nothing
# of the solution is given away.
#
# VAEは-ELBOの勾配に沿って、qとモデルを同時に動かします。ELBOが上がるのは、log p(x)が上がるか、差が
# 縮まるときです。行き着く先は最尤解でしょうか。線形VAEなら答え合わせができます。このモデルは
# 確率的主成分分析で、最尤解が固有値と固有ベクトルから求まるからです（Tipping, Bishop 1999。Wの行を
# 回転したものも最尤解です）。線形VAEのELBOの最大値もこの最尤解と一致し、余分な局所解は
# 増えません（Lucas et al. 2019）。データは、同梱の訓練データ9,000枚を2×2画素ごとに平均し（D =
# 196）、中心化したものです。L = 6とします。重みは、ふつうのVAEと同じく、画像1枚にepsを1回だけ
# 生成してAdamで学習します。s^2は1から始め、エポックごとに、標本zをデコードしたときの画素あたりの
# 平均二乗誤差に置き換えます。ELBOのs^2による微分が0になる値です。

x = mnist10k().x_train.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
x -= x.mean(axis=0)
D, L = 196, 6
pca = PCA(x, D)
lambdas, axes = pca.variances, pca.components[:L].T


def best_log_p(s2):
    """Return the largest mean log p(x) of probabilistic PCA with noise variance s2."""
    c = np.full(D, s2)  # the eigenvalues of the model's covariance W^T W + s2 I
    c[:L] = np.maximum(lambdas[:L], s2)
    return -(D * LOG_2PI + np.log(c).sum() + (lambdas / c).sum()) / 2


def train(seed, epochs, s=None):
    """Return a trained linear VAE and its -ELBO by epoch; s is learnt where it is not given."""
    vae = VAE(D, (), L, likelihood="gaussian", sigma=s or 1.0, seed=seed)
    optimizer, losses = Adam(0.03), []

    def after_epoch(training):
        losses.append(training.history["neg_elbo"][-1])
        optimizer.learning_rate = 0.015 * (1.001 + math.cos(math.pi * training.epoch / epochs))
        if s is None:  # reconstruction = D/2 (log 2 pi s^2 + squared error a pixel / s^2)
            s2, reconstruction = vae.nll.sigma**2, training.history["reconstruction"][-1]
            vae.nll.sigma = math.sqrt(s2 * (2 * reconstruction / D - math.log(2 * math.pi * s2)))

    fit(vae, x, epochs=epochs, optimizer=optimizer, seed=seed, callbacks=[after_epoch])
    return vae, losses


def judge(vae):
    """Return s^2, the mean log p(x) and ELBO, and the largest angle to the subspace of PCA."""
    W, b = (vae.named_parameters()[f"decoder.0.{name}"].astype(np.float64) for name in "Wb")
    mu, logvar = (part.astype(np.float64) for part in vae.encode(x))
    cosines = np.linalg.svd(np.linalg.qr(W.T)[0].T @ axes)[1]
    s = vae.nll.sigma
    angle = math.degrees(math.acos(min(cosines[-1], 1)))
    return s**2, evidence(x, W, b, s).mean(), elbo(x, mu, logvar, W, b, s).mean(), angle


s2, runs = lambdas[L:].mean(), []
best, nothing = best_log_p(s2), -D / 2 * (LOG_2PI + math.log(lambdas.mean()) + 1)
print("\nnats an image                         s^2     log p(x)       ELBO   angle")
print(f"no latents, best s       {lambdas.mean():16.5f}{nothing:13.3f}")
print(f"probabilistic PCA, maximum{s2:15.5f}{best:13.3f}{best:11.3f}    0.0°")
for seed in range(3):
    vae, losses = train(seed, 40)
    found, log_p, bound, angle = judge(vae)
    print(f"linear VAE, seed {seed}{found:23.5f}{log_p:13.3f}{bound:11.3f}{angle:7.1f}°")
    assert 0 <= best - log_p < 0.1
    assert 0 < log_p - bound < 0.1
    assert abs(found / s2 - 1) < 0.01
    assert angle < 2
    runs.append(np.maximum(np.array(losses) + best, 1e-3))  # one-draw estimates scatter

# %%
# Reached, by every seed: log p(x) of the trained decoder within 0.03 nats an image of the maximum
# (six latents are worth 46), s^2 within 1%, the subspace within 1 degree. The ELBO is another 0.02
# nats lower: the encoder is that close to the true posterior. No run exceeds the maximum.
#
# Not reached: the principal axes. Rotating the latents does not change log p(x). It changes the
# ELBO, since a diagonal q wants orthogonal rows of W; its maximum has them on the principal axes.
# But the force is weak: no rotation costs more than 0.14 nats, and after 40 epochs the rows are
# still mixed.
#
# どのシードでも、学習したデコーダのlog p(x)は最大値まで1枚あたり0.03 nat以内に達します（潜在変数
# 6個の価値は46 natです）。s^2は1%以内、部分空間は1度以内です。ELBOはさらに0.02 nat低いだけで、
# エンコーダはそれだけ真の事後分布に近くなっています。最大値を超えることはありません。
#
# 主成分の軸そのものには達していません。潜在変数を回転しても、log p(x)は変わりません。ELBOは
# 変わります。共分散が対角のqにはWの行が直交するほうがよく、ELBOが最大の点では行が主成分の軸に
# 一致するからです。しかし、回転による差は最大でも0.14 natしかなく、40エポックの後も、Wの行では軸が
# 混ざったままです。

rows = vae.named_parameters()["decoder.0.W"]
cosines = abs(rows / np.linalg.norm(rows, axis=1, keepdims=True) @ axes).max(axis=1)
ratios = lambdas[:L] / s2  # the eigenvalues of M; at the worst rotation its diagonal is constant
cost = (L * math.log(ratios.mean()) - np.log(ratios).sum()) / 2
print(f"last seed: rows of W, largest |cosine| with a principal axis: {np.sort(cosines).round(2)}")
print(f"ELBO lost by the worst rotation: {cost:.2f} nats")
assert cost < 0.15

# %%
# Posterior collapse, and who wants it / 事後崩壊と、その原因
# -----------------------------------------------------------
# At the maximum, latent j has on average the KL :math:`\tfrac12 \log (\lambda_j / s^2)`, and where
# :math:`\lambda_j \le s^2` it has none: W_j = 0. With s fixed at 1 the reconstruction error is half
# the summed squared error, and one latent of six stays in use, as one eigenvalue exceeds 1. Such a
# collapse is often blamed on the ELBO. Here maximum likelihood itself wants it, given this s:
# log p(x) is within 0.02 nats of its maximum, and the ELBO of log p(x). The cure is to learn s.
#
# 最尤解では、潜在変数jのKLの平均はlog(lambda_j / s^2) / 2で、lambda_jがs^2以下なら0、つまり
# 使われません。s = 1に固定すると（再構成誤差は二乗誤差の和の半分です）、1を超える固有値は
# 1つだけなので、6個のうち1個しか使われません。事後崩壊はELBOのせいにされがちですが、ここでは、その
# sの下での最尤解そのものです。log p(x)は最大値から、ELBOはlog p(x)から、どちらも
# 0.02 nat以内にあります。sを学習すれば、崩壊は起こりません。

fixed = 1.0
collapsed, _ = train(0, 30, s=fixed)
_, log_p, bound, _ = judge(collapsed)
per_latent = np.sort(GaussianKL().per_latent(*collapsed.encode(x)))[::-1]
maximum = best_log_p(fixed**2)
print(f"\ns = {fixed:g}: ELBO {bound:.3f}, log p(x) {log_p:.3f}, maximum {maximum:.3f} nats")
print("eigenvalues   ", lambdas[:L].round(3), "\nKL of a latent", per_latent.round(3))
assert 0 <= maximum - log_p < 0.02
assert 0 < log_p - bound < 0.02
assert (per_latent > 0.01).sum() == (lambdas > fixed**2).sum() == 1

figure, (left, middle, right) = new_figure(13.5, 4.3, columns=3)
for (name, rise), colour in zip(rises.items(), (VERMILLION, BLUE), strict=True):
    left.plot(rise, color=colour, label=name)
    left.fill_between(range(len(rise)), rise, 0, color=colour, alpha=0.12)
left.set_xlim(0, 120)
left.set_ylim(-3, 0.3)
style(left, title="q moved: the shade is the KL", xlabel="step", ylabel="ELBO - log p(x), nats")
for (r, pairs), colour in zip(gaps.items(), (BLUE, VERMILLION), strict=True):
    values, errors = np.array(pairs).T
    label = f"q {r} times as wide as p(z|x)"
    middle.errorbar(Ks, -values, 2 * errors, color=colour, marker="o", label=label)
middle.set_xscale("log")
style(middle, title="K samples a bound", xlabel="K", ylabel="L_K - log p(x), nats")
for ax in (left, middle):
    ax.axhline(0, color=INK, linestyle="--", label="log p(x)")
    ax.legend(frameon=False, loc="lower right")
for seed, (above, colour) in enumerate(zip(runs, (BLUE, VERMILLION, "#117733"), strict=True)):
    right.semilogy(range(1, len(above) + 1), above, color=colour, label=f"seed {seed}")
right.grid(color=FAINT)
right.legend(frameon=False)
style(right, title="Linear VAE", xlabel="epoch", ylabel="-ELBO above its minimum, nats")
print("\nfigure:", save(figure, "out/11_elbo.png"))

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - log p(x) = ELBO + KL(q(z|x) || p(z|x)), for every q.
#   / log p(x) = ELBO + KL(q(z|x) || p(z|x))は、どんなqでも成り立つ。
# - ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z)).
#   / ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z))。第1項は再構成誤差の符号を変えたもの、第2項（引く
#   KL）は正則化項。
# - Two KLs: the one to the prior is in the loss, the one to the posterior is the gap.
#   / 2つのKLを区別する。損失に入るのは事前分布とのKL、下限と真の値の差は事後分布とのKL。
# - A VAE minimizes -ELBO over encoder and decoder at once.
#   / VAEは-ELBOを、エンコーダとデコーダの両方について同時に最小化する。
# - The bound is tight if and only if q(z|x) = p(z|x). / 下限が真の値に一致するのは、qが真の
#   事後分布に等しいとき、そのときだけ。
# - The importance-weighted bound: L_1 = ELBO, and L_K tends to log p(x).
#   / 重点サンプリングによる下限は、K = 1でELBO、Kを増やすとlog p(x)に近づく。
# - A linear VAE is probabilistic PCA; latents with lambda_j <= sigma^2 collapse.
#   / 線形VAEは確率的主成分分析。固有値がsigma^2以下の潜在変数は事後崩壊する。

# %%
# Try it / 試してみよう
# ---------------------
# 1. r = 0.75 for 0.58: the variance of w is finite, the gap at K = 100 falls from 0.056 to 0.005,
#    and the last assertion about the two q fails. / 0.58を0.75にするとwの分散は有限になり、K = 100
#    での差は0.056から0.005に減って、2つのqを比べる最後のassertで止まります。
# 2. ``fixed = 0.5``: all six eigenvalues exceed 0.25, and no latent collapses; the
#    assertions, made for s = 1, stop the script. / ``fixed = 0.5`` にすると、固有値は
#    6個とも0.25を超え、どの潜在変数も崩壊しません（s = 1についてのassertで止まります）。
# 3. 120 epochs for 40: log p(x) comes within 0.006 nats of the maximum, and the rows of W are still
#    mixed. / 40エポックを120にすると、log p(x)と最大値の差は0.006 nat以内になりますが、Wの行では
#    まだ軸が混ざっています。
