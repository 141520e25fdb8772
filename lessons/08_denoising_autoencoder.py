r"""
8. The denoising autoencoder / デノイジング・オートエンコーダ
=============================================================

| After this lesson you can write the training step of a denoising autoencoder, derive what it
  estimates and why the target must be clean, and name the linear rival that it has to beat.
| この講を終えると、デノイジング・オートエンコーダの学習ステップを書けます。それが何を推定するのか、
  正解がなぜノイズのない画像でなければならないのかを導け、超えるべき線形の比較相手を挙げられます。

| Needs lessons 5 and 6. Runs in about 16 s on two cores.
| 前提は第5講と第6講。実行時間は約16秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - デノイジング・オートエンコーダ（DAE）
     - Denoising Autoencoder (DAE)
   * - ノイズ除去
     - denoising
   * - ガウスノイズ、マスキングノイズ、ごま塩ノイズ
     - Gaussian, masking, salt-and-pepper noise
   * - リッジ回帰、正則化
     - ridge regression, regularization
   * - 条件付き期待値
     - conditional expectation
"""

# %%
# Three corruptions / 3種類のノイズ
# ---------------------------------
# A denoising autoencoder reads a corrupted image :math:`\tilde x` (``x_tilde``) and has to return
# the clean x (Vincent et al. 2010). The noise, n from N(0, 1) or u uniform in [0, 1), is drawn anew
# for each batch and passed as an argument, so that the corruption itself is a plain function:
#
# ノイズを加えた画像 :math:`\tilde x` （``x_tilde``）を入力し、ノイズのないxを出力させるのが
# デノイジング・オートエンコーダです（Vincent et al. 2010）。ノイズ（標準正規分布のn、または[0, 1)の
# 一様乱数u）はミニバッチごとに新たに生成し、引数として渡します。そうすれば、ノイズを加える
# 操作はただの関数になります。

import numpy as np

from scratchvae import Autoencoder, DenoisingAutoencoder, ReLU, Sequential, plots
from scratchvae.datasets import mnist10k
from scratchvae.evaluate import PCA, Ridge, mse, reconstruct
from scratchvae.gradcheck import check_gradients
from scratchvae.train import fit


def gaussian(x, n):
    """Add noise of standard deviation 0.5 and clip to [0, 1]."""
    return np.clip(x + 0.5 * n, 0, 1)


def masking(x, u):
    """Set 30 % of the pixels to 0."""
    return np.where(u < 0.3, 0, x)


def salt_and_pepper(x, u):
    """Set 15 % of the pixels to 1 and 15 % to 0."""
    return np.where(u < 0.15, 1, np.where(u < 0.3, 0, x))


# %%
# The step / 学習ステップ
# -----------------------
# One thing of lesson 5 changes: the encoder reads :math:`\tilde x`; the loss still compares y with
# x. Backwards, x occurs in dlogits and :math:`\tilde x` in :math:`dW_1`. With one hidden layer:
#
# .. math::
#    a &= \tilde x W_1 + b_1, \quad h = \max(a, 0), \quad y = \mathrm{sigmoid}(h W_2 + b_2), \quad
#    \mathrm{loss} = \tfrac{1}{BD} {\textstyle\sum} (y - x)^2 \\
#    dlogits &= \tfrac{2}{BD} (y - x)\, y\,(1 - y), \quad dW_2 = h^\top dlogits, \quad
#    da = (dlogits\, W_2^\top)\,[a > 0], \quad dW_1 = \tilde x^\top da
#
# 第5講から変わるのは1か所だけです。エンコーダは :math:`\tilde x` を読み、損失はyをxと比べます。
# 逆伝播では、dlogitsにxが、:math:`dW_1` に :math:`\tilde x` が現れます。


def denoising_step(p, x, x_tilde):
    """Return the loss and the gradients by the parameters p."""
    W1, b1, W2, b2 = p.values()
    a = x_tilde @ W1 + b1
    h = np.maximum(a, 0)
    y = 1 / (1 + np.exp(-(h @ W2 + b2)))
    dlogits = 2 / x.size * (y - x) * y * (1 - y)
    da = (dlogits @ W2.T) * (a > 0)
    gradients = x_tilde.T @ da, da.sum(axis=0), h.T @ dlogits, dlogits.sum(axis=0)
    return ((y - x) ** 2).mean(), dict(zip(p, gradients, strict=True))


def shallow(model):
    """Put a ReLU behind the code of a model without hidden layers: D-L-D as drawn in textbooks."""
    model.encoder = Sequential(*model.encoder.layers, ReLU())
    return model


# %%
# Proof / 検証
# ------------
# For each corruption: the gradient against numerical derivatives, with the noise held fixed; the
# library's ``DenoisingAutoencoder`` against ours; and, because no gradient check sees a wrong
# corruption, what it does to 10,000 images: mean and variance of a grey pixel.
#
# ノイズの種類ごとに、ノイズを固定した勾配確認と、ライブラリの ``DenoisingAutoencoder`` との照合を
# 行います。ノイズそのものの誤りは勾配確認では見つからないので、灰色の画素の平均と分散も確かめます。

CORRUPTIONS = {"gaussian": gaussian, "masking": masking, "salt_and_pepper": salt_and_pepper}
MOMENTS = {"gaussian": (0.5, 0.129), "masking": (0.35, 0.0525), "salt_and_pepper": (0.5, 0.075)}
rng = np.random.default_rng(0)
x = rng.random((5, 7))
for name, corrupt in CORRUPTIONS.items():
    dae = shallow(DenoisingAutoencoder(7, (), 4, corruption=name, dtype="float64"))
    noise, p = dae.draw_noise(rng, x), dae.named_parameters()
    x_tilde = corrupt(x, noise)
    loss, gradients = denoising_step(p, x, x_tilde)
    report = check_gradients(lambda q, t=x_tilde: denoising_step(q, x, t)[0], p, gradients)
    report.raise_if_wrong()
    assert np.array_equal(dae.corrupt(x, noise), x_tilde)
    assert np.isclose(dae.forward(x, noise), loss, rtol=1e-14)
    dae.backward()
    for key, gradient in dae.named_gradients().items():
        assert np.allclose(gradient, gradients[key], rtol=1e-12, atol=1e-16)
    grey = np.full((10_000, 7), 0.5)
    many, (mean, variance) = corrupt(grey, dae.draw_noise(rng, grey)), MOMENTS[name]
    assert abs(many.mean() - mean) < 0.01
    assert abs(many.var() - variance) < 0.003

# %%
# Why the target is clean / 正解にノイズを加えない理由
# ----------------------------------------------------
# Which function f of :math:`\tilde x` makes :math:`E|f(\tilde x) - t|^2` smallest, for a target t?
# For one given :math:`\tilde x`, with :math:`m = E[t \mid \tilde x]`,
#
# .. math:: E\bigl[|f - t|^2 \mid \tilde x\bigr]
#           = |f - m|^2 + E\bigl[|m - t|^2 \mid \tilde x\bigr] ,
#
# as the mixed term :math:`2 (f - m) \cdot E[m - t \mid \tilde x]` is 0. So f = m is best. With t =
# x the network learns :math:`E[x \mid \tilde x]`, the mean of all clean images that may be behind
# what it sees: that is why denoised images are a little blurred. With :math:`t = \tilde x` it is
# :math:`\tilde x` itself: the copy has loss 0, and nothing is learnt. Against a clean target the
# copy does not help, so it is the noise that forbids it, not L < D: L = 400 will do.
#
# 正解をtとしたとき、:math:`E|f(\tilde x) - t|^2` を最小にする関数fは何でしょうか。:math:`\tilde x`
# を固定して :math:`m = E[t \mid \tilde x]` とおくと、交差項が0になり、上のように分かれるので、
# f = mが最良です。t = xなら、ネットワークは :math:`E[x \mid \tilde x]`、つまり「この入力の
# 元になりえた、ノイズのない画像すべての平均」を学びます。ノイズ除去後の画像が
# 少しぼやけるのはこのためです。:math:`t = \tilde x` なら最良は :math:`\tilde x` そのもので、
# コピーすれば損失が0になり、何も学べません。逆に正解がxなら、コピーでは損失が減りません。コピーを
# 防ぐのはL < Dではなくノイズなので、L = 400でも構いません。

# %%
# The honest rival: the best linear denoiser / 手ごわい比較相手：最良の線形写像
# -----------------------------------------------------------------------------
# Let f be linear, :math:`f = \tilde x W` (x centred, C its covariance matrix as in lesson 6). For
# noise with mean 0 and variance :math:`\sigma^2` a pixel, independent of x, the mixed term vanishes
# again:
#
# .. math:: E|(x + \sigma n) W - x|^2 = E|x W - x|^2 + \sigma^2 |W|^2
#           \quad\Rightarrow\quad W = (C + \sigma^2 I)^{-1} C .
#
# (The derivative by W is 0 where :math:`(C + \sigma^2 I)\, W = C`.)
# **Training a linear denoiser with noise is ridge regression**: the noise is the penalty on W. In
# the eigenvectors of C, component i is multiplied by :math:`\lambda_i / (\lambda_i + \sigma^2)`: a
# PCA that fades out where the noise is larger than the digits.
#
# Clipping, masks and salt act on each pixel alone as well, but their mean m(x) is not x and their
# variance v(x) depends on x. As the noise of two pixels is independent, v enters the diagonal only:
# :math:`W = (\mathrm{Cov}(m(x)) + \mathrm{diag}\,E[v(x)])^{-1}
# \mathrm{Cov}(m(x), x)`. That is the average over *all* noise: a linear rival that has seen
# infinitely many noisy copies. m and v are needed for 256 grey levels only.
#
# fを線形、:math:`f = \tilde x W` とします（xは中心化済み、Cは第6講と同じ分散共分散行列）。平均0、
# 分散 :math:`\sigma^2` でxと独立なノイズなら、ここでも交差項が消え、Wによる微分を0とおくと上の
# 式になります。 **ノイズを加えて線形モデルを学習することは、リッジ回帰と同じ** で、ノイズがWへの
# 正則化になるのです。Cの固有ベクトルの方向で見ると、第i成分は
# :math:`\lambda_i / (\lambda_i + \sigma^2)` 倍されます。ノイズが信号より大きい成分を弱める、
# なめらかな主成分分析です。クリップ・マスキング・ごま塩ノイズも画素ごとに独立ですが、平均m(x)は
# xではなく、分散v(x)はxによります。その場合は
# :math:`W = (\mathrm{Cov}(m(x)) + \mathrm{diag}\,E[v(x)])^{-1} \mathrm{Cov}(m(x), x)` で、
# これはあらゆるノイズについての平均です。つまり、ノイズ入りの画像を無限枚見た線形の比較相手です。
# mとvは256段階の画素値について求めれば足ります。

data = mnist10k()
x_train, x_test = data.x_train, data.x_test


def best_linear(corrupt, noise, x):
    """Return W, b of the best linear map from corrupt(x) to x; noise is (draws, 256)."""
    draws = corrupt(np.broadcast_to(np.arange(256) / 255, noise.shape), noise)
    level = np.rint(255 * x).astype(int)
    f, v = draws.mean(axis=0)[level], draws.var(axis=0)[level].mean(axis=0)
    f_mean, x_mean = f.mean(axis=0), x.mean(axis=0, dtype=np.float64)
    g = f - f_mean
    g32, x32 = g.astype(np.float32), (x - x_mean).astype(np.float32)  # for the costly products
    C = g32.T @ g32 / len(x) + np.diag(v + 1e-6)  # the 1e-6 is for pixels that are always black
    W = np.linalg.solve(C, g32.T @ x32 / len(x))
    return W, x_mean - f_mean @ W


def unclipped(x, n):
    """The noise of the formula above."""
    return x + 0.5 * n


# %%
# Without clipping ours must be the formula, which is the library's ``Ridge(x, x, sigma**2)``; and
# ridge regression from one noisy copy of the training digits must come close to ours, from above.
#
# クリップしない場合は上の式、つまりライブラリの ``Ridge(x, x, sigma**2)`` と一致するはずです。
# また、ノイズ入りの訓練画像1組から求めたリッジ回帰の誤差は、これをわずかに上回るはずです。

levels = rng.standard_normal((5000, 256))
ridge = Ridge(x_train, x_train, 0.5**2)
W, b = best_linear(unclipped, levels, x_train)
assert np.linalg.norm(W - ridge.W) < 0.02 * np.linalg.norm(ridge.W)

noise = {"gaussian": rng.standard_normal, "masking": rng.random, "salt_and_pepper": rng.random}
noisy = {k: c(x_test, noise[k](x_test.shape)).astype("f4") for k, c in CORRUPTIONS.items()}
one_copy = Ridge(gaussian(x_train, rng.standard_normal(x_train.shape)), x_train, 1e-3)
one_copy_error = mse(x_test, one_copy.predict(noisy["gaussian"]))

# %%
# The comparison / 比較
# ---------------------
# 784-400-784, seed 0: twenty epochs on Gaussian noise, five on each of the other two. The rivals:
# doing nothing; the same network trained without noise; PCA with 20, 40, 60 or 100 components,
# whichever is best on the Gaussian noise; and the best linear map. All read the same noisy held-out
# digits, and are compared with the clean ones.
#
# 784-400-784、シード0。ガウスノイズでは20エポック、ほかの2つでは5エポック学習します。比較相手は、
# 何もしない場合、同じネットワークをノイズなしで学習させたもの、主成分分析
# （20・40・60・100成分のうちガウスノイズで最良のもの）、そして最良の線形写像です。どれも同じ
# ノイズ入りの画像を読み、ノイズのない画像と比べます。

plain = shallow(Autoencoder(784, (), 400))
fit(plain, x_train, epochs=5)
pca = PCA(x_train, 100)


def flat(x, n_components):
    """Return what PCA with n_components makes of x (N, D)."""
    u = pca.components[:n_components]
    return np.clip(pca.mean + (x - pca.mean) @ u.T @ u, 0, 1)


sizes = {n: mse(x_test, flat(noisy["gaussian"], n)) for n in (20, 40, 60, 100)}
n_components = min(sizes, key=sizes.get)
filters = {"plain": plain.named_parameters()["encoder.0.W"]}
table, outputs, curve = {}, {}, []
for name, corrupt in CORRUPTIONS.items():
    dae = shallow(DenoisingAutoencoder(784, (), 400, corruption=name))
    main = name == "gaussian"

    def after_epoch(training, dae=dae, main=main):
        """Note the held-out error, and the filters after five epochs."""
        if main:
            curve.append(mse(x_test, reconstruct(dae, noisy["gaussian"])))
            filters[f"DAE {training.epoch}"] = dae.named_parameters()["encoder.0.W"].copy()

    fit(dae, x_train, epochs=20 if main else 5, callbacks=[after_epoch])
    W, b = best_linear(corrupt, noise[name]((5000, 256)), x_train)
    if main:
        filters["linear"] = W
    outputs[name] = {
        "corrupted": noisy[name],
        "plain AE": reconstruct(plain, noisy[name]),
        "PCA": flat(noisy[name], n_components),
        "linear": np.clip(noisy[name] @ W + b, 0, 1),
        "DAE": reconstruct(dae, noisy[name]),
    }
    table[name] = {label: mse(x_test, y) for label, y in outputs[name].items()}

print(f"MSE against 1,000 clean held-out digits (PCA: {n_components} components)")
print("                 nothing  plain AE     PCA  linear     DAE   epochs")
for name, row in table.items():
    print(f"{name:16s}{row['corrupted']:8.4f}{row['plain AE']:10.4f}{row['PCA']:8.4f}", end="")
    print(f"{row['linear']:8.4f}{row['DAE']:8.4f}{20 if name == 'gaussian' else 5:9d}")
best = table["gaussian"]["linear"]
print("gaussian, DAE after 5, 10, 15, 20 epochs: ", *(f"{e:.4f}" for e in curve[4::5]))
print(f"gaussian, ridge regression from one noisy copy: {one_copy_error:.4f}, from all: {best:.4f}")
spread = outputs["gaussian"]["DAE"].var(axis=0).sum() / x_test.var(axis=0).sum()
dark = {name: outputs[name]["plain AE"].mean() / x_test.mean() for name in CORRUPTIONS}
print("brightness of the plain AE's output over the clean digits':", end=" ")
print(", ".join(f"{name} {value:.2f}" for name, value in dark.items()))
print(f"gaussian, variance of the DAE's output over that of the clean digits: {spread:.2f}")

assert curve[9] > 1.01 * best  # after ten epochs ridge still wins
assert curve[19] < 0.97 * best
assert curve[19] < 0.0172
assert best < 0.98 * one_copy_error
assert spread < 0.95
assert dark["gaussian"] < 0.4
assert dark["salt_and_pepper"] < 0.6
for name, row in table.items():
    assert row["linear"] < row["plain AE"] < row["corrupted"]
    assert row["DAE"] < row["PCA"] < row["corrupted"]
    assert name == "gaussian" or row["linear"] < row["DAE"]

# %%
# What to see: against "doing nothing" every method looks good; only the linear map shows what a
# result is worth. On Gaussian noise it beats the DAE after ten epochs and loses after twenty, by
# not quite a tenth; after five epochs it is ahead on every noise. The plain AE does not simply pass
# the noise on, as one might expect: outside of what it was trained on it is lost, and its output
# turns dark under salt, almost black under Gaussian noise. The DAE's output varies less than clean
# digits do: it is a mean over possibilities.
#
# 表の見どころ：「何もしない」と比べれば、どの方法も優秀に見えます。線形写像と比べて初めて、結果の
# 価値が分かります。ガウスノイズでは、10エポックのDAEは線形写像に負け、20エポックで1割弱上回ります。
# 5エポックでは、どのノイズでも線形写像が上です。ノイズなしで学習したオートエンコーダは、予想に
# 反してノイズをそのまま通すのではありません。学習したデータの範囲を外れると役に立たず、出力は
# ごま塩ノイズでは暗く、ガウスノイズではほとんど真っ黒になります。また、DAEの出力の分散は元の数字
# より小さくなります。ありうる画像の平均だからです。

figure, (ax,) = plots.new_figure(7.5, 4.4)
ax.plot(range(2, 21), curve[1:], "o-", color=plots.BLUE, label="DAE 784-400-784")
ax.axhline(best, linestyle="--", color=plots.VERMILLION, label="best linear map (ridge)")
ax.set_xticks((2, 5, 10, 15, 20))
plots.style(
    ax,
    title="The linear rival is beaten, but late",
    xlabel="epochs of training the DAE",
    ylabel="held-out MSE, Gaussian noise",
)
ax.legend(frameon=False)
plots.save(figure, "out/08_curve.png")

pick = {name: [4 * i + j for j in range(4)] for i, name in enumerate(CORRUPTIONS)}
rows = {"clean": x_test[:12]}
for label in ("corrupted", "plain AE", "PCA", "linear", "DAE"):
    rows[label] = np.concatenate([outputs[name][label][n] for name, n in pick.items()])
title = "Gaussian noise (4), masking (4), salt and pepper (4), and what five methods make of it"
plots.save(plots.image_rows(rows, title=title), "out/08_denoising.png")

# %%
# The filters / フィルタ
# ----------------------
# What does each unit look at? For the networks, the columns of the first W, those with the largest
# norm; for the linear map, the columns of W, each for one output pixel. Two numbers: the share of a
# filter's squared weights in its best 7 x 7 window, and the correlation of neighbouring weights.
#
# 各ユニットは何を見ているのでしょうか。ネットワークでは1層目のWの列（ノルムの大きいもの）、
# 線形写像では出力画素ごとのWの列を示します。7×7の窓1つに入る重みの2乗の割合（最大のもの）と、隣り
# 合う重みの相関も測ります。


def locality(w):
    """Return the mean share of a filter's squared weights in its best 7 x 7 window; w (784, n)."""
    squares = np.square(w.T.reshape(-1, 28, 28))
    windows = np.lib.stride_tricks.sliding_window_view(squares, (7, 7), axis=(1, 2))
    return np.mean(windows.sum(axis=(3, 4)).max(axis=(1, 2)) / squares.sum(axis=(1, 2)))


def smoothness(w):
    """Return the mean correlation of horizontal neighbours in the middle 20 x 20 weights."""
    pairs = [(f[4:24, 4:23].ravel(), f[4:24, 5:24].ravel()) for f in w.T.reshape(-1, 28, 28)]
    return np.mean([np.corrcoef(one, next_one)[0, 1] for one, next_one in pairs])


centre = [28 * i + j for i in (8, 14, 20) for j in (8, 12, 16, 20)]  # twelve output pixels
filters["linear"] = filters["linear"][:, centre]
shown = {"DAE, 20 epochs": "DAE 20", "DAE, 5 epochs": "DAE 5", "plain AE, 5 epochs": "plain"}
shown["linear"] = "linear"
print("\nfilters               in a 7 x 7 window   correlation of neighbours")
figures, rows = {}, {}
for label, key in shown.items():
    w = filters[key]
    figures[key] = locality(w), smoothness(w)
    print(f"{label:22s}{figures[key][0]:17.2f}{figures[key][1]:28.2f}")
    largest = w.T[np.argsort(-np.linalg.norm(w, axis=0))[:12]] if key != "linear" else w.T
    rows[label] = 0.5 + 0.5 * largest / np.abs(largest).max(axis=1, keepdims=True)
figure = plots.image_rows(rows, title="Filters: weights from black (negative) to white (positive)")
plots.save(figure, "out/08_filters.png")
assert figures["linear"][0] > 0.7
assert figures["DAE 20"][0] < 0.4
assert figures["DAE 5"][1] < figures["plain"][1] + 0.03
assert figures["DAE 20"][1] > figures["DAE 5"][1] + 0.05

# %%
# What to see: the linear map replaces a pixel by a weighted mean of its surroundings. The DAE's
# filters reach over the whole digit, in pieces of strokes. It is often said that noise makes smooth
# stroke filters out of shapeless ones; here that does not survive. After five epochs the DAE's are
# no smoother than those of the network trained without noise, and after twenty both come to about
# 0.45 (the plain network's measured apart): training time smooths them, with noise or without.
#
# 表の見どころ：線形写像は、画素をその周囲の加重平均で置き換えます。DAEのフィルタは数字全体に
# 広がり、線の断片の形をしています。「ノイズを加えると、形のないフィルタが滑らかな線の
# フィルタになる」とよく言われますが、ここでは成り立ちません。5エポックではDAEのフィルタは
# ノイズなしのものより滑らかではなく、20エポックではどちらも約0.45です（ノイズなしは別に測定）。
# 滑らかになるのは、ノイズの有無によらず、長く学習したためです。

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - DAE: corrupt the input, compare with the clean target.
#   / DAE：入力にノイズを加え、ノイズのない元の入力を正解とする。
# - With squared error the optimum is the conditional expectation E[x | x_tilde].
#   / 二乗誤差での最適解は条件付き期待値E[x | x_tilde]。
# - Noise is added to the input (or a mask applied), not to the code: that is the VAE's.
#   / ノイズを加えるのは入力。潜在変数にノイズが入るのはVAE。
# - Noise forbids the copy, so L may be large (overcomplete).
#   / ノイズがコピーを防ぐので、Lは大きくてもよい（過完備）。
# - A linear model trained with Gaussian noise is ridge regression with penalty sigma^2.
#   / ガウスノイズを加えた線形モデルの学習は、正則化係数sigma^2のリッジ回帰と同じ。
# - New noise for every batch; one draw serves forward and backward.
#   / ノイズはミニバッチごとに新たに生成し、順伝播と逆伝播では同じものを使う。

# %%
# Try it / 試してみよう
# ---------------------
# 1. Twenty epochs for all three: the DAE passes the linear map everywhere, by about 4 % on masking
#    and 14 % on salt and pepper; an ``assert`` notices.
#    / 3つとも20エポックにすると、DAEはどのノイズでも線形写像を上回り（マスキングで約4%、ごま塩で
#    約14%）、``assert`` がそれを知らせます。
# 2. For the comparison, use the models without ``shallow``, that is without the ReLU: after ten
#    epochs the DAE is already level with the linear map, after twenty a tenth ahead. / 比較で
#    ``shallow`` を使わず、ReLUなしにすると、10エポックで線形写像と並び、20エポックで約1割
#    上回ります。
# 3. In ``denoising_step`` compare y with ``x_tilde`` in both places: the gradient check still
#    passes, as the derivative is right; the comparison with the library fails. / ``denoising_step``
#    の2か所でyを ``x_tilde`` と比べると、微分は正しいので勾配確認は通りますが、ライブラリとは
#    一致しません。
