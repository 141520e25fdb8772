r"""
5. The autoencoder / オートエンコーダ
=====================================

| After this lesson you can write an autoencoder and its backward pass from memory, say what the
  bottleneck is for, train one on digits, and count honestly what it compresses.
| この講を終えると、オートエンコーダの順伝播と逆伝播を何も見ずに書けます。ボトルネックの
  役割を説明でき、手書き数字で学習させ、圧縮率を正しく数えられるようになります。

| Needs lessons 2, 3 and 4. Runs in about 8 s on two cores.
| 前提は第2講から第4講。実行時間は約8秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - オートエンコーダ（自己符号化器）
     - autoencoder
   * - エンコーダ、デコーダ
     - encoder, decoder
   * - 潜在変数、潜在空間
     - latent variable, latent space
   * - 再構成誤差
     - reconstruction error
   * - 教師なし学習
     - unsupervised learning
"""

# %%
# A network whose target is its input / 入力そのものを正解とするネットワーク
# --------------------------------------------------------------------------
# An autoencoder is two networks in a row. The encoder maps x (B, D) to a code z (B, L), the decoder
# maps z to y (B, D), and the loss compares y with x. No label is used. With one hidden layer of H
# units on either side:
#
# .. math::
#    a &= x W_1 + b_1, & h &= \max(a, 0), & z &= h W_2 + b_2
#      && \text{encoder: } (B,D) \to (B,H) \to (B,L) \\
#    c &= z W_3 + b_3, & g &= \max(c, 0), & y &= \mathrm{sigmoid}(g W_4 + b_4)
#      && \text{decoder: } (B,L) \to (B,H) \to (B,D) \\
#    && && \mathrm{loss} &= \tfrac{1}{BD} {\textstyle\sum_{nd}} (y_{nd} - x_{nd})^2 .
#
# オートエンコーダは2つのネットワークをつないだものです。エンコーダがx (B, D)を潜在変数z (B, L)に
# 変え、デコーダがzをy (B, D)に戻し、損失でyとxを比べます。ラベルを使わないので教師なし学習です。
# 隠れ層が左右に1つずつ（Hユニット）なら、順伝播は上の式になります。

import itertools
import zlib

import numpy as np

from scratchvae import Adam, Autoencoder, plots
from scratchvae.datasets import mnist10k
from scratchvae.evaluate import mse, psnr, reconstruct
from scratchvae.gradcheck import check_gradients
from scratchvae.train import fit

# %%
# The backward pass / 逆伝播
# --------------------------
# Read the lines upwards; each is a piece of lesson 2 or 3. With dlogits for the derivative in front
# of the sigmoid, and [a > 0] for 1 where a > 0 and 0 elsewhere:
#
# .. math::
#    dlogits &= \tfrac{2}{BD}\,(y - x)\; y\,(1 - y) & dW_4 &= g^\top dlogits \\
#    dc &= (dlogits\; W_4^\top)\,[c > 0] & dW_3 &= z^\top dc \\
#    dz &= dc\; W_3^\top & dW_2 &= h^\top dz \\
#    da &= (dz\; W_2^\top)\,[a > 0] & dW_1 &= x^\top da
#
# and each db is the column sum of the derivative beside it. Two things are easily missed. x is the
# input and the target, but it is data: nothing is differentiated by x, so its second role adds no
# term. And all that the encoder ever learns passes through dz: L numbers an image.
#
# 順伝播の式を下から上へ読むだけで、部品はすべて第2講と第3講のものです。dlogitsはシグモイドの手前の
# 値での微分です。[a > 0]は、a > 0の要素で1、それ以外で0です。各dbは、同じ行の左にある微分の
# 列和です。見落としやすい点が2つあります。xは入力であると同時に正解でもありますが、データなので
# xでは微分せず、余分な項は生じません。また、エンコーダの学習に使われる情報はすべてdzを、つまり
# 画像1枚あたりL個の数を通ります。


def autoencoder(p, x):
    """Return the loss and the gradients by the parameters p: the formulas, line by line."""
    W1, b1, W2, b2, W3, b3, W4, b4 = p.values()
    a = x @ W1 + b1
    h = np.maximum(a, 0)
    z = h @ W2 + b2
    c = z @ W3 + b3
    g = np.maximum(c, 0)
    y = 1 / (1 + np.exp(-(g @ W4 + b4)))
    dlogits = 2 / x.size * (y - x) * y * (1 - y)
    dc = (dlogits @ W4.T) * (c > 0)
    dz = dc @ W3.T
    da = (dz @ W2.T) * (a > 0)
    steps = (x, da), (h, dz), (z, dc), (g, dlogits)
    gradients = [d for inputs, dy in steps for d in (inputs.T @ dy, dy.sum(axis=0))]
    return ((y - x) ** 2).mean(), dict(zip(p, gradients, strict=True))


# %%
# Proof / 検証
# ------------
# First against numerical derivatives (lesson 1), then the library's ``Autoencoder`` against ours,
# then one step of ``fit``, the library's training loop, against a step written out.
#
# まず数値微分（第1講）と照合し、次にライブラリの ``Autoencoder`` が同じ値を返すこと、最後に
# 学習ループ ``fit`` の1ステップが手書きの1ステップと同じであることを確かめます。

rng = np.random.default_rng(0)
x = rng.random((5, 7))  # B, D = 5, 7
model = Autoencoder(7, hidden=(4,), n_latent=3, dtype="float64")
p = model.named_parameters()
loss, gradients = autoencoder(p, x)
report = check_gradients(
    lambda q: autoencoder(q, x)[0], p, gradients, sizes={"B": 5, "D": 7, "H": 4, "L": 3}
)
print(report)
report.raise_if_wrong()

assert np.isclose(model.forward(x), loss, rtol=1e-14)
model.backward()
for name, gradient in model.named_gradients().items():
    assert np.allclose(gradient, gradients[name], rtol=1e-12, atol=1e-16)

twin = Autoencoder(7, hidden=(4,), n_latent=3, dtype="float64")  # the same seed: the same theta
fit(twin, x, epochs=1, batch_size=5)
Adam().step(model.theta, model.grad)
assert np.allclose(twin.theta, model.theta, rtol=0, atol=1e-12)

# %%
# What the bottleneck is for / ボトルネックの役割
# -----------------------------------------------
# The gradient check says that the derivatives are right, not that the network is of use. With
# :math:`L \ge D`, and without activations, there is a perfect autoencoder that has learnt nothing:
# the copy, encoder and decoder both the identity (filled up with zeros if L > D). No network has a
# smaller loss. What stands in its way here is :math:`L < D`. (Lesson 8 forbids it in another way,
# by noise.)
#
# 勾配確認で分かるのは微分の正しさだけで、ネットワークの有用性ではありません。活性化関数がなく
# :math:`L \ge D` なら、エンコーダもデコーダも恒等写像（L > Dなら残りは0）とすれば、何も学ばず入力を
# コピーするだけで、損失は0、つまり最小になります。ここでコピーを妨げているのは :math:`L < D` という
# 制約です（第8講では、代わりにノイズで防ぎます）。

copy = Autoencoder(7, hidden=(), n_latent=7, output="linear", dtype="float64")
for name, parameter in copy.named_parameters().items():
    parameter[...] = np.eye(7) if name.endswith("W") else 0
assert copy.forward(x) == 0

# %%
# Layer by layer / 層ごとの事前学習
# ---------------------------------
# When deep networks were hard to train, autoencoders were **stacked** (Bengio et al. 2007, after
# Hinton, Salakhutdinov 2006, who stacked restricted Boltzmann machines). The first learns to
# reconstruct the images. Its encoder is then held fixed, and the second learns to reconstruct the
# codes of the first: its input and its target are z, not x. In the end the encoders stand on top of
# each other, an output layer is added, and the whole is trained with labels (fine-tuning). ReLU,
# better initial weights and batch normalisation have made this rare; the idea of pre-training
# without labels has stayed.
#
# 深いネットワークの学習が難しかった頃は、オートエンコーダを1層ずつ学習して積み重ねました（積層
# オートエンコーダ、Bengio et al. 2007。先行するHinton・Salakhutdinov 2006は、制限付きボルツマン
# マシンを積み重ねました）。1つ目は画像を再構成するように学習します。次にそのエンコーダを固定し、
# 2つ目は1つ目の潜在変数を再構成するように学習します。つまり2つ目は、入力も正解もxではなくzです。
# 最後にエンコーダを重ねて出力層を加え、全体をラベル付きデータで学習します（ファインチューニング）。
# ReLUや初期値の工夫、バッチ正規化によって今ではあまり使われませんが、ラベルなしデータで事前学習する
# という考え方は残っています。

# %%
# On digits / 手書き数字で
# ------------------------
# Four autoencoders 784-400-L-400-784, five epochs each on 9,000 digits, measured on the other 1,000
# (one seed, 0). PSNR is :math:`10 \log_{10}(1 / \mathrm{MSE})` in decibels. The rival that uses no
# code at all shows every digit as the mean image.
#
# 784-400-L-400-784のオートエンコーダを4つ、9,000枚で5エポックずつ学習し（シードは0のみ）、残りの
# 1,000枚で測ります。PSNRは :math:`10 \log_{10}(1 / \mathrm{MSE})` （単位dB）です。比較の基準は、
# 潜在変数を使わず、どの数字にも平均画像を出力する方法です。

data = mnist10k()
x_train, x_test = data.x_train, data.x_test
mean_image = np.broadcast_to(x_train.mean(axis=0), x_test.shape)
LATENTS = (2, 8, 20, 32)
models, errors = {}, {0: mse(x_test, mean_image)}
for n_latent in LATENTS:
    models[n_latent] = model = Autoencoder(784, n_latent=n_latent)
    fit(model, x_train, epochs=5)
    errors[n_latent] = mse(x_test, reconstruct(model, x_test))
    assert np.array_equal(model.reconstruct(x_test), model.decode(model.encode(x_test)))

# %%
# The compression ratio / 圧縮率
# ------------------------------
# In numbers it is D / L. In bytes one must count what is stored: a pixel is one byte, a float32
# latent four. Rounding each latent to one of 256 levels makes it one byte as well; the columns
# "8-bit" are for that.
#
# 圧縮率は、数値の個数で数えるとD / Lです。バイト数で数えるなら、実際に保存するものを数える
# 必要があります。画素は1バイト、float32の潜在変数は4バイトです。潜在変数を256段階に丸めれば
# 1バイトで済みます。「8-bit」の列はその場合です。


def rounded(z, low, high):
    """Return z on 256 levels between low and high, each (L,): what one byte a latent can hold."""
    step = (high - low) / 255
    return low + step * np.rint((np.clip(z, low, high) - low) / step)


print("\n         x / code   x / code, bytes    MSE, held-out digits     PSNR    MSE")
print("latents   numbers   float32    8-bit    float32       8-bit       dB   train")
print(f"   none {'-':>9} {'-':>9} {'-':>8}  {errors[0]:9.4f} {'-':>11} {psnr(errors[0]):8.1f}")
for n_latent, model in models.items():
    z_train = model.encode(x_train)
    z = rounded(model.encode(x_test), z_train.min(axis=0), z_train.max(axis=0))
    eight_bit = mse(x_test, model.decode(z))
    error, train = errors[n_latent], mse(x_train, reconstruct(model, x_train))
    ratio = 784 / n_latent
    print(f"{n_latent:7d} {ratio:9.1f} {ratio / 4:9.1f} {ratio:8.1f}  {error:9.4f}", end=" ")
    print(f"{eight_bit:11.4f} {psnr(error):8.1f}  {train:.4f}")
    assert eight_bit < 1.01 * error
gains = [(errors[m] - errors[n]) / (n - m) for m, n in ((0, 2), (2, 8), (8, 20))]  # a latent
assert all(early > late > 0 for early, late in itertools.pairwise(gains))
assert errors[2] < 0.8 * errors[0]
assert 0.8 < errors[32] / errors[20] < 1.2

# %%
# What to see: two numbers take a quarter of the mean image's error away, and up to 20 latents each
# further one helps less. Between 20 and 32 five epochs decide nothing: which of them leads depends
# on the seed, and only after ten epochs (lesson 6) it is 32. Rounding to a byte adds less than 1 %
# to the error, so 20 bytes stand for 784. But 39 flatters as a compression ratio, for three reasons
# that can be measured: it is lossy, the decoder has to be shipped too, and it holds for digits in
# the usual place only.
#
# 表の見どころ：数値2つだけで平均画像の誤差が約4分の3に減り、20個までは、増やすほど1個あたりの効果が
# 小さくなります。20個と32個の優劣は5エポックでは決まらず、シードによって変わります。32個が
# 優勢になるのは10エポック後（第6講）です。1バイトに丸めても誤差の増加は1%未満なので、784バイトが
# 20バイトになりました。ただし、39倍という圧縮率は割り引いて見る必要があります。理由は3つあり、
# どれも測れます。非可逆であること、デコーダも配布しなければならないこと、いつもの位置に書かれた
# 数字にしか通用しないことです。

pixels = np.rint(255 * x_test).astype(np.uint8)
lossless = len(zlib.compress(pixels.tobytes(), 9)) / len(pixels)
decoder = sum(v.nbytes for k, v in models[20].named_parameters().items() if k.startswith("decoder"))
shifted = np.roll(x_test.reshape(-1, 28, 28), 4, axis=2).reshape(x_test.shape)
shifted_error = mse(shifted, reconstruct(models[20], shifted))
shifted_mean = mse(shifted, mean_image)
print(f"\nzlib, lossless: {lossless:.0f} bytes a digit, so 784 bytes are 1 : {784 / lossless:.1f}")
print(f"decoder of 20 latents: {decoder / 1e6:.1f} MB, paid back after", end=" ")
print(f"{decoder / (lossless - 20):,.0f} digits against zlib")
print(f"digits moved 4 pixels to the right: MSE {shifted_error:.4f}, {errors[20]:.4f} in place;")
print(f"the mean image makes {shifted_mean:.4f} of them")
assert lossless < 200
assert decoder / (lossless - 20) > 5000
assert shifted_error > 2 * errors[20]

# %%
# The picture: the first held-out digit of each class. With 2 latents several digits come out as a
# blur or as another digit: images with almost the same code share one drawing. More latents restore
# first which digit it is, then its strokes.
#
# 図は、学習に使っていない数字から各クラスの最初の1枚です。潜在変数が2個では、ぼやけたり別の
# 数字になったりするものがあります。潜在変数の値がほぼ同じ画像は、同じ画像に再構成されるからです。
# 潜在変数を増やすと、まずどの数字かが、次に線の形が戻ります。

examples = x_test[[np.flatnonzero(data.y_test == digit)[0] for digit in range(10)]]
rows = {"original": examples}
for n_latent, model in models.items():
    rows[f"{n_latent} latents"] = model.reconstruct(examples)
figure = plots.image_rows(
    rows, title="Held-out digits (784 pixels) rebuilt from 2, 8, 20 and 32 numbers"
)
plots.save(figure, "out/05_autoencoder.png")

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - Encoder x -> z, decoder z -> y, trained so that y = x: unsupervised, the target is the input.
#   / エンコーダx → z、デコーダz → y。出力が入力に一致するよう学習する教師なし学習。
# - The loss is the reconstruction error: MSE, or cross-entropy for pixels in [0, 1].
#   / 損失は再構成誤差。平均二乗誤差か、画素が[0, 1]なら交差エントロピー。
# - L < D (undercomplete) forbids the copy; L >= D needs another constraint: noise, sparsity.
#   / L < Dなら単なるコピーはできない。L ≧ Dならノイズやスパース性など別の制約が要る。
# - Backpropagation as in any network; the encoder's gradient passes through dz (B, L).
#   / 逆伝播は普通のネットワークと同じ。エンコーダの勾配はdz (B, L)を通る。
# - The code is deterministic: one x, one z. There is no distribution to draw z from (lesson 12).
#   / zは決定論的で、1つのxに1つのzが対応する。zをサンプリングできる分布はない（第12講）。
# - A compression ratio of D / L counts numbers; it is lossy and tied to the training data.
#   / 圧縮率D / Lは数値の個数の比。非可逆で、訓練データに似たデータにしか通用しない。

# %%
# Try it / 試してみよう
# ---------------------
# 1. ``epochs=20``: the held-out MSE of 32 latents falls from 0.018 to about 0.0105; that of 2
#    latents only from 0.051 to 0.047. / ``epochs=20`` にすると、32個の誤差は0.018から約0.0105に
#    減りますが、2個では0.051から0.047にしか減りません。
# 2. Add 784 to ``LATENTS``: about 0.0096, the smallest error of all, and nothing is compressed.
#    The reconstruction error alone does not ask for a small code. / ``LATENTS`` に784を加えると、
#    誤差は約0.0096で最小ですが、何も圧縮していません。再構成誤差だけでは次元は減りません。
# 3. ``Autoencoder(784, hidden=(), n_latent=n_latent)``: without the ReLU layers 20 latents are left
#    at about 0.044 (an assertion stops the run after the table).
#    / ``Autoencoder(784, hidden=(), n_latent=n_latent)`` としてReLUの隠れ層をなくすと、20個でも
#    誤差は約0.044です（表を表示した後にassertで止まります）。
