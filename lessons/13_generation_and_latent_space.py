r"""
13. Generating, and the latent space / 生成と潜在空間
=====================================================

| After this lesson you can draw new digits from a VAE, say why it is harder with an autoencoder,
  and put a number on "how far from real digits" and on "how smooth is the latent space".
| この講を終えると、VAEから新しい数字を生成し、オートエンコーダではなぜ同じようにいかないのかを説明
  できます。生成画像と本物の隔たりや、潜在空間の滑らかさを数値で測れるようになります。

| Needs lessons 5, 9 and 12. Runs in about 13 s on two cores.
| 前提は第5講、第9講、第12講。実行時間は約13秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - 生成モデル、識別モデル
     - generative model, discriminative model
   * - 事前分布からのサンプリング
     - sampling from the prior
   * - 潜在空間、潜在空間の連続性
     - latent space, its continuity
   * - 潜在空間での補間
     - interpolation in the latent space
   * - 多様体
     - manifold
"""

# %%
# Why the prior is the place to draw from / なぜ事前分布からサンプリングするのか
# ------------------------------------------------------------------------------
# A discriminative model learns p(y|x), or only the boundary between classes. A generative model
# learns how the data arise, p(x) or p(x, y), and can be sampled. A VAE is one, with
# :math:`p(x) = \int p(x|z)\, p(z)\, dz`. To generate, draw z and decode it. The decoder gives
# digits only where it was trained: near the codes of digits. Taken over all images x, these codes
# have the distribution :math:`q(z) = E_x[q(z|x)]`, the aggregate posterior. Write
# :math:`\log \frac{q(z|x)}{p(z)} = \log \frac{q(z|x)}{q(z)} + \log \frac{q(z)}{p(z)}` and average,
# first over z from q(z|x), then over x:
#
# .. math::
#    \underbrace{E_x\, KL(q(z|x) \,\|\, p(z))}_{\text{the KL of the loss}}
#    = \underbrace{E_x\, KL(q(z|x) \,\|\, q(z))}_{\text{what z tells about x}}
#    + \underbrace{KL(q(z) \,\|\, p(z))}_{\text{how far the codes are from the prior}} .
#
# All three are at least 0, so the KL of the loss is an upper bound of the last one: the VAE pays
# for every nat by which its codes, taken together, miss p(z) = N(0, I) (Hoffman, Johnson 2016). An
# autoencoder pays nothing. Its codes may lie anywhere, and nobody knows where to draw.
#
# 識別モデルは、入力xからラベルyを予測するp(y|x)、またはクラスの境界だけを学習します。生成モデルは、
# データの分布p(x)やp(x, y)を学習するので、新しいデータをサンプリングできます。VAEは、
# :math:`p(x) = \int p(x|z)\, p(z)\, dz` とする生成モデルです。生成とは、zをサンプリングして
# デコードすることです。デコーダが数字を出せるのは、学習した場所、つまり数字の潜在変数の
# 近くだけです。全画像の潜在変数を合わせた分布を集約事後分布q(z)と
# 呼びます。:math:`\log \frac{q(z|x)}{p(z)} = \log \frac{q(z|x)}{q(z)} + \log \frac{q(z)}{p(z)}`
# を、まずq(z|x)に従うzについて、次にxについて平均すると、上の式になります。つまり、損失のKLは「zが
# xについて持つ情報」と「q(z)と事前分布との隔たり」の和です。どちらも0以上なので、損失のKLはq(z)と
# p(z)の隔たりの上界になります（Hoffman, Johnson 2016）。VAEは、潜在変数全体の分布が
# 事前分布からずれた分のコストを払います。オートエンコーダにはそのコストがなく、潜在変数がどこに
# 分布するかは決まっていません。

from statistics import NormalDist

import numpy as np

from scratchvae import VAE, Autoencoder, plots
from scratchvae.datasets import mnist10k
from scratchvae.evaluate import PCA
from scratchvae.train import fit

SEED = 0

# %%
# A ruler: can the nearest neighbour tell them apart? / 物差し：最近傍で見分けられるか
# ------------------------------------------------------------------------------------
# Put N samples of a model and N real digits into one pool. For each image take the nearest other
# one (Euclidean distance of the pixels) and guess that both come from the same set. The share of
# right guesses is the leave-one-out accuracy of a 1-nearest-neighbour classifier, a two-sample
# test (Lopez-Paz, Oquab 2017; Xu et al. 2018).
#
# What should a perfect model get? If both sets come from one distribution, the set labels are
# exchangeable: the neighbour of an image is equally likely to be any of the other 2N - 1, and N -
# 1 of them are of its own set. So the expectation is (N - 1) / (2N - 1), just under .5. At 1,
# every image gives itself away. An accuracy *under* .5 is possible too: copies of the real images,
# each lying closest to its original, would bring it to 0.
#
# All distances come from one matrix product, as
# :math:`\|a - b\|^2 = \|a\|^2 + \|b\|^2 - 2\, a \cdot b`.
#
# A classifier's confidence is no such ruler: networks are confident on noise as well (Nguyen,
# Yosinski, Clune 2015).
#
# モデルの生成画像N枚と本物の数字N枚を混ぜます。各画像について最も近い別の画像（画素の
# ユークリッド距離）を探し、「同じ組に属する」と予想します。当たった割合は、1-最近傍法の
# leave-one-out正解率で、2標本検定の一種です（Lopez-Paz, Oquab 2017; Xu et al. 2018）。2つの組が同じ
# 分布から来ているなら、最近傍は残り2N - 1枚のどれである確率も等しく、同じ組はそのうちN - 1枚です。
# よって期待値は(N - 1) / (2N - 1)、ほぼ0.5です。1に近いほど見分けられています。0.5より
# 下もありえます。本物の画像の丸写しなら、最近傍が相手の組の原本になり、0に近づきます。
#
# 分類器の確信度は物差しになりません。分類器はノイズにも高い確信度を出すからです（Nguyen et al.
# 2015）。


def neighbours_guess_right(a, b):
    """Return whether each row of a and b, (N, D) each, has its nearest neighbour in its own set."""
    pool = np.concatenate((a, b)).astype(np.float64)
    in_a = np.arange(len(pool)) < len(a)
    squares = (pool**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * pool @ pool.T
    np.fill_diagonal(distances, np.inf)  # leave one out: nobody is its own neighbour
    return in_a[distances.argmin(axis=1)] == in_a


# %%
# Proof: against the definition, written as a loop; and the meaning: copies give 0, white on black
# against black on white gives 1.
#
# 定義どおりのループと一致すること、丸写しなら0、白黒反転なら1になることを確かめます。

data = mnist10k()
pool = np.concatenate((data.x_train, data.x_test))
a, b = pool[:40], pool[5000:5040]
both = np.concatenate((a, b))
loop = [
    (min((np.linalg.norm(u - v), j) for j, v in enumerate(both) if j != i)[1] < 40) == (i < 40)
    for i, u in enumerate(both)
]
assert neighbours_guess_right(a, b).tolist() == loop
assert neighbours_guess_right(a, a).mean() == 0
assert neighbours_guess_right(a, 1 - a).mean() == 1

# %%
# Check the ruler before you measure / 測る前に物差しを確かめる
# -------------------------------------------------------------
# Real digits against real digits must give about .5. They do not: 1,000 digits from the front of
# the embedded file against its last 1,000, our usual held-out part, give about .6. MNIST lists the
# digits of one writer close together, so that neighbours in pixel space are often neighbours in
# the file (counted below), and the two parts are mostly by different people. Against these digits
# a perfect model would not reach .5 either.
#
# So in this lesson we shuffle the 10,000 digits first and hold out 1,000 of them. Now real against
# real gives .5, and what is above .5 is the model's doing.
#
# 測る前に、物差しを確かめます。本物どうしなら約0.5のはずです。ところが、ファイルの先頭の1,000枚と、
# いつもの検証用（末尾の1,000枚）を比べると約0.6になります。MNISTでは同じ人の数字が近くに
# 並んでいるため、画素空間の最近傍がファイルの中でも近くにあることが多く（下で数えます）、先頭と
# 末尾では、書いた人の大半が違うのです。これでは、完璧なモデルでも0.5になりません。
#
# そこでこの講では、10,000枚をシャッフルしてから1,000枚を検証用にします。これで本物どうしは
# 約0.5になり、0.5を上回る分はモデルが原因だと言えます。

squares = (pool**2).sum(axis=1)
distances = squares[:2000, None] + squares - 2 * pool[:2000] @ pool.T
distances[np.arange(2000), np.arange(2000)] = np.inf
gap = np.abs(distances.argmin(axis=1) - np.arange(2000))
close, chance = float((gap <= 100).mean()), 200 / 9999
unshuffled = float(neighbours_guess_right(data.x_train[:1000], data.x_test).mean())

order = np.random.default_rng(SEED).permutation(len(pool))
x_train, x_test = pool[order[:9000]], pool[order[9000:]]
real = neighbours_guess_right(x_train[:1000], x_test)
print(f"nearest neighbour within 100 places in the file: {close:.0%} (by chance {chance:.0%})")
print(f"real against real: {unshuffled:.3f} in file order, {real.mean():.3f} after the shuffle")
assert close > 3 * chance
assert unshuffled > 0.56
assert abs(real.mean() - 0.5) < 0.04

# %%
# Drawing / 生成
# --------------
# A VAE and an autoencoder, 784-400-20-400-784, 8 epochs each, one seed (0). ``VAE.sample`` draws z
# from N(0, I) and decodes it. What is shown and measured are the means of p(x|z), as is usual:
# black and white pixels drawn from them would add a noise that digits do not have.
#
# For the autoencoder there are two ways. Draw from N(0, I), as if it were a VAE; or, fairer, look
# where its codes lie, fit a Gaussian (mean and covariance) to them and draw from that. And to see
# what the prior costs the VAE, we also decode z drawn from q(z|x) of 1,000 training digits. That
# is no generation, as it needs the digits.
#
# VAEとオートエンコーダを、どちらも784-400-20-400-784、8エポック、シード0で学習します。
# ``VAE.sample`` はN(0, I)からサンプリングしたzをデコードします。表示と測定には、慣例どおり
# p(x|z)の平均を使います（p(x|z)から白黒の画素をサンプリングすると、数字にはないノイズが加わるから
# です）。
#
# オートエンコーダでのサンプリングの方法は2通りです。VAEと同じくN(0, I)を使う方法と、実際の
# 潜在変数に正規分布（平均と共分散）を当てはめてそれを使う、より公平な方法です。さらに、
# 事前分布を使うことでVAEが失うものを見るため、訓練画像のq(z|x)からサンプリングしたzもデコード
# します。元の画像が必要なので、これは生成ではありません。

vae, ae = VAE(784, (400,), 20, seed=SEED), Autoencoder(784, (400,), 20, seed=SEED)
fit(vae, x_train, epochs=8, seed=SEED)
fit(ae, x_train, epochs=8, seed=SEED)

z = np.random.default_rng(1).standard_normal((1000, 20), dtype=np.float32)
assert np.array_equal(vae.sample(1000, rng=1), vae.decode(z))

rng = np.random.default_rng(2)
mu, logvar = vae.encode(x_train)
codes = ae.encode(x_train)
z_of_digits = mu[:1000] + np.exp(logvar[:1000] / 2) * rng.standard_normal((1000, 20), dtype="f4")
z_fitted = rng.multivariate_normal(codes.mean(axis=0), np.cov(codes.T), 1000).astype("f4")
samples = {
    "VAE, N(0, I)": vae.decode(z),
    "AE, N(0, I)": ae.decode(z),
    "AE, fitted": ae.decode(z_fitted),
    "VAE, q(z|x)": vae.decode(z_of_digits),
}
vae_moment = float((mu**2 + np.exp(logvar)).mean())  # E[z^2] under the aggregate posterior
ae_moment = float((codes**2).mean())
assert vae_moment < 1.6
assert ae_moment > 3

print(
    f"\nmean square of a latent over the codes: prior 1, VAE {vae_moment:.2f}, AE {ae_moment:.1f}"
)
print("\n1-nearest-neighbour test, 1,000 samples     all   samples   real digits")
print("against 1,000 held-out digits        correct   correct   correct")
accuracy, columns = {}, {}
for name, images in {"real (training digits)": x_train[:1000], **samples}.items():
    right = neighbours_guess_right(images, x_test)
    accuracy[name], columns[name] = right.mean(), (right[:1000].mean(), right[1000:].mean())
    print(f"{name:35s} {right.mean():9.3f} {columns[name][0]:9.2f} {columns[name][1]:9.2f}")
_, prior, ae_prior, ae_fitted, posterior = accuracy.values()
assert prior <= 0.82
assert ae_prior >= 0.90
assert prior + 0.02 < ae_fitted < ae_prior - 0.04
assert posterior < prior - 0.1

rows = {f"real  {real.mean():.2f}": x_test[:12]}
rows |= {f"{name}  {accuracy[name]:.2f}": images[:12] for name, images in samples.items()}
title = "Samples, and how often the nearest neighbour tells them from real digits (.5: chance)"
figure = plots.image_rows(rows, image_shape=(28, 28), title=title)
plots.save(figure, "out/13_samples.png")

# %%
# What to see / 結果の見どころ
# ----------------------------
# Real against real is at .5. The VAE's samples are told from real digits in about .8 of all cases,
# the autoencoder's from N(0, I) in more than .9. The columns say how. Nearly every sample has
# another sample for its neighbour, whatever the model: its images share a blur, or a noise, that
# digits do not have (lesson 14 measures the blur).
#
# **The fair remark:** a good part of the difference is location and scale. The autoencoder's codes
# are off centre and about twice as wide as N(0, I), so that drawing from it misses them. A fitted
# Gaussian brings the AE down to about .84, more than half of the way to the VAE. "An autoencoder
# cannot generate" is too strong. It was given no distribution to draw from, and a Gaussian fitted
# afterwards fits less well than the prior that the VAE was trained with: this is what we measured.
#
# **The last row** shows what the prior costs. Decoded from where the codes are, the images still
# betray themselves (.96), but real digits mostly find one of them nearest (.2 correct): they lie
# among the digits. Samples from the prior lie farther off (.6 correct): q(z) is not quite N(0, I).
# And .58 as the mean of .96 and .2 warns us not to read the average alone.
#
# 本物どうしは0.5です。VAEの生成画像は約0.8の割合で見分けられ、N(0, I)を使った
# オートエンコーダでは0.9を超えます。右の2列は内訳です。どのモデルでも、生成画像の
# 最近傍はほとんどが別の生成画像です。同じモデルの画像は、本物にはないぼやけやノイズを
# 共有しているからです（ぼやけは第14講で測ります）。
#
# **公平に言えば、** 差のかなりの部分は位置と尺度の問題です。オートエンコーダの潜在変数は
# 中心がずれ、N(0, I)の2倍ほどに広がっているので、N(0, I)を使うと、潜在変数のある場所を外します。
# 当てはめた正規分布を使うと約0.84まで下がり、VAEとの差の半分以上が埋まります。「オートエンコーダは
# 生成できない」は言い過ぎです。オートエンコーダにはzの分布が与えられておらず、後から当てはめた
# 正規分布は、VAEの事前分布ほどには合いません。これが測定の結果です。
#
# **最後の行** からは、事前分布を使うことで失うものが分かります。潜在変数のある場所からデコードした
# 画像も、それ自体は見分けられます（0.96）が、本物の数字の最近傍はたいていそれらの画像になります
# （正解は約0.2）。つまり本物の間に入り込んでいます。事前分布から生成した画像はもっと離れています
# （正解は約0.6）。q(z)はN(0, I)と完全には一致していません。また、0.58は0.96と0.2の平均です。
# 平均だけを見てはいけません。

assert ae_prior - ae_fitted > 0.5 * (ae_prior - prior)
assert min(columns[name][0] for name in samples) > 0.9
assert columns["VAE, q(z|x)"][1] < 0.35 < columns["VAE, N(0, I)"][1] - 0.1

# %%
# Walking from digit to digit / 数字から数字への補間
# --------------------------------------------------
# Take the codes of two digits and 21 points evenly spaced on the line between them, and decode.
# With :math:`y_0, \ldots, y_{20}` for the images, the length of the decoded path over the distance
# of its ends,
#
# .. math:: r = \frac{\sum_t \|y_{t+1} - y_t\|}{\|y_{20} - y_0\|} \ge 1,
#
# is at least 1 by the triangle inequality, and 1 only if the images change along a straight line.
# Two things to know about it:
#
# - Straight is not good by itself. Cross-fading the pixels has r = 1 and shows a double exposure
#   halfway; PCA, with its linear decoder, has r = 1 too. r tells the detours and jumps of a curved
#   decoder, no more. So we also put the images halfway to the nearest-neighbour test.
# - Scale plays no part here. An affine map of the codes, such as the one that gives them mean 0
#   and covariance I, takes lines to lines and even steps to even steps: r stays the same.
#
# 2つの数字の潜在変数を結ぶ線分上に等間隔で21点を取り、デコードした画像を
# :math:`y_0, \ldots, y_{20}` とします。画像がたどる道のりを両端の距離で割った比rは、三角不等式から
# 1以上で、画像が一直線に変化するときだけ1です。注意が2つあります。
#
# - まっすぐなだけでは良いと言えません。画素の混ぜ合わせはr = 1ですが、中間は二重写しです。
#   デコーダが線形のPCAもr = 1です。rで分かるのは、曲がったデコーダの回り道や飛躍だけです。そこで、
#   中間の画像も最近傍の検定にかけます。
# - ここでは尺度は関係しません。潜在変数をアフィン変換しても（例えば平均0、共分散Iにしても）、
#   線分は線分に、等間隔は等間隔に移るので、rは変わりません。


def walk(decode, start, stop):
    """Decode 21 points on each line from start to stop, (P, L) each; return images (P, 21, D)."""
    t = np.linspace(0, 1, 21, dtype=start.dtype)[None, :, None]
    line = start[:, None] * (1 - t) + stop[:, None] * t
    return decode(line.reshape(-1, start.shape[1])).reshape(len(start), 21, -1)


def path_ratio(y):
    """Return the length of each path of images y (P, T, D) over the distance of its ends, (P,)."""
    steps = np.linalg.norm(np.diff(y, axis=1), axis=2).sum(axis=1)
    return steps / np.linalg.norm(y[:, -1] - y[:, 0], axis=1)


one, two = np.random.default_rng(3).permutation(1000), np.random.default_rng(4).permutation(1000)
different = one != two
one, two = one[different], two[different]

pca = PCA(x_train, 20)
mean, root = codes.mean(axis=0), np.linalg.cholesky(np.cov(codes.T)).astype("f4")
white = np.linalg.solve(root, (ae.encode(x_test) - mean).T).T  # mean 0, covariance I
walks = {
    "pixels": walk(lambda x: x, x_test[one], x_test[two]),
    "PCA": walk(pca.decode, pca.encode(x_test[one]), pca.encode(x_test[two])),
    "VAE": walk(vae.decode, vae.codes(x_test[one]), vae.codes(x_test[two])),
    "AE": walk(ae.decode, ae.codes(x_test[one]), ae.codes(x_test[two])),
    "AE, codes whitened": walk(lambda w: ae.decode(w @ root.T + mean), white[one], white[two]),
}
print("\nwalks, 20 latents         length of the path   told from real digits")
print("                        over distance of ends   halfway   at the start")
ratio, halfway = {}, {}
for name, y in walks.items():
    ratio[name] = float(path_ratio(y).mean())
    others = x_train[: len(y)]
    halfway[name] = float(neighbours_guess_right(y[:, 10], others).mean())
    start = float(neighbours_guess_right(y[:, 0], others).mean())
    assert halfway[name] > start
    print(f"{name:20s} {ratio[name]:15.3f} {halfway[name]:18.2f} {start:14.2f}")
assert all(path_ratio(y).min() > 0.999 for y in walks.values())
assert abs(ratio["pixels"] - 1) < 1e-3
assert abs(ratio["PCA"] - 1) < 1e-3
assert abs(ratio["AE, codes whitened"] - ratio["AE"]) < 1e-3
assert ratio["VAE"] <= 1.32
assert ratio["AE"] >= ratio["VAE"] + 0.10
assert halfway["VAE"] < halfway["AE"] - 0.01
assert halfway["VAE"] < halfway["pixels"] - 0.04
assert abs(halfway["AE"] - halfway["PCA"]) < 0.06

labels = np.concatenate((data.y_train, data.y_test))[order][9000:]
first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
pairs = [(1, 0), (3, 7), (5, 2)]
start, stop = (x_test[[first[pair[k]] for pair in pairs]] for k in (0, 1))
shown = {
    "pixels": walk(lambda x: x, start, stop),
    "AE": walk(ae.decode, ae.codes(start), ae.codes(stop)),
    "VAE": walk(vae.decode, vae.codes(start), vae.codes(stop)),
}
figure = plots.interpolation(
    np.concatenate([y[k : k + 1, ::2] for k in range(len(pairs)) for y in shown.values()]),
    ends=[(name, "") for _ in pairs for name in shown],
    image_shape=(28, 28),
    title="From digit to digit: cross-fading pixels, and lines between codes (20 latents)",
)
plots.save(figure, "out/13_walks.png")

# %%
# The VAE's paths are the straighter ones, by more than .10, and its images halfway are the hardest
# to tell from real digits. But the difference is one of degree. The autoencoder's images halfway
# (.72) are told about as often as those of PCA, and in every row halfway is worse than the start.
#
# VAEの道のりの比は0.10以上小さく、中間の画像は本物と最も見分けにくくなっています。ただし、程度の
# 差です。オートエンコーダの中間の画像（0.72）はPCAと同程度に見分けられ、どの行でも中間は端より
# 悪くなります。
#
# The manifold in two dimensions / 2次元の多様体
# ----------------------------------------------
# With two latents the whole space can be looked at. The model is 784-256-64-2-64-256-784, because
# a plane needs a decoder that can bend it, and gets 10 epochs. The grid is even in probability,
# not in z: each tile stands for 1/400 of the prior, so that the picture shows what the model
# generates, and how often.
#
# 潜在変数が2個なら、潜在空間の全体を見渡せます。平面を大きく曲げられるデコーダが要るので、
# 784-256-64-2-64-256-784とし、10エポック学習します。格子はzではなく確率について等間隔です。1枚が
# 事前分布の400分の1を表すので、モデルが何をどれだけの頻度で生成するかが図から分かります。

plane = VAE(784, (256, 64), 2, seed=SEED)
fit(plane, x_train, epochs=10, learning_rate=3e-3, seed=SEED)
axis = np.array([NormalDist().inv_cdf((i + 0.5) / 20) for i in range(20)], dtype="f4")
tiles = plane.decode(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
codes_2d = plane.codes(x_test)
figure = plots.latent(
    codes_2d,
    labels,
    decoded=(tiles, axis, axis),
    image_shape=(28, 28),
    title="VAE, 2 latents: held-out digits, and what the decoder makes of the plane",
)
plots.save(figure, "out/13_manifold.png")

grid = tiles.reshape(20, 20, 784)
neighbours = np.concatenate(
    [np.linalg.norm(np.diff(grid, axis=k), axis=2).ravel() for k in (0, 1)]
).mean()
shuffled = np.random.default_rng(5).permutation(400)
anyone = np.linalg.norm(tiles - tiles[shuffled], axis=1).mean()
outside = float((np.abs(codes_2d) > axis[-1]).any(axis=1).mean())
prior_outside = 1 - (1 - 2 * 0.025) ** 2
nats = {m.n_latent: m.loss_terms(x_test, m.draw_noise(rng, x_test)) for m in (plane, vae)}
print(
    f"\n2 latents: neighbouring tiles are {neighbours / anyone:.2f} times as far apart as any two"
)
print(
    f"2 latents: outside the square, {outside:.0%} of the codes, {prior_outside:.0%} of the prior"
)
for n_latent, terms in nats.items():
    print(f"{n_latent:2d} latents: -ELBO {terms['neg_elbo']:.0f} nats, KL {terms['kl']:.1f}")
print("Figures: out/13_samples.png, out/13_walks.png, out/13_manifold.png")
assert neighbours < 0.4 * anyone
assert outside > prior_outside + 0.03
assert nats[2]["neg_elbo"] > nats[20]["neg_elbo"] + 20

# %%
# Similar codes, similar images: from one tile to the next the image changes by about a fifth of
# what separates any two. This is meant by a continuous latent space. The left panel shows what the
# test above found: the codes do not fill the prior evenly, and more of them lie outside the dashed
# square (the plane at right) than a normal distribution would put there. And the last lines show
# the price of a plane: more than 20 nats an image against twenty latents.
#
# 潜在変数が近ければ画像も近く、隣の格子点に移ったときの変化は、任意の2枚の差の約5分の1です。これが
# 「潜在空間の連続性」です。左の図には、先ほどの検定で見た隔たりが表れています。潜在変数は事前分布を
# 均等には埋めず、正方形の外にあるものは、正規分布の場合より多くなっています（破線の正方形は右の図の
# 範囲です）。最後の行は2次元にした代償です。潜在変数20個の場合より、画像1枚あたり20
# nat以上悪くなります。

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - Generation by a VAE: z from the prior N(0, I), then the decoder alone, without the encoder.
#   / VAEの生成：事前分布N(0, I)からzをサンプリングし、デコーダだけに通す。エンコーダは使わない。
# - The KL term holds the codes of all images near the prior; so what is drawn there can be
#   decoded.
#   / KL項が全画像の潜在変数を事前分布の近くに保つので、そこからサンプリングしたzをデコードできる。
# - An autoencoder has no such term, and no distribution to draw z from.
#   / オートエンコーダにはこの項がなく、zをサンプリングするための分布もない。
# - Interpolation: decode (1 - t) z1 + t z2 for t from 0 to 1; the image changes gradually.
#   / 補間：t = 0から1まで(1 - t) z1 + t z2をデコードする。画像は徐々に変化する。
# - The images lie near a manifold of few dimensions; z are coordinates on it.
#   / 画像は低次元の多様体の近くに分布し、zはその上の座標にあたる。
# - Two latents are for looking at; they reconstruct worse.
#   / 潜在変数2個は見るためのもので、再構成は劣る。
# - A two-sample test: at .5 the two sets cannot be told apart, at 1 always.
#   / 2標本検定：正解率0.5なら区別できず、1なら必ず区別できる。

# %%
# Try it / 試してみよう
# ---------------------
# 1. ``SEED = 1``: another split and other weights; all assertions still hold.
#    / ``SEED = 1`` とします。分割と重みの初期値が変わっても、assertはすべて成り立ちます。
# 2. 10 for 20 latents, in both models and in the shapes of the draws: the VAE is told at about .7,
#    the AE from N(0, I) at about .82 (and the assertion that wants .90 stops the script). Fewer
#    latents, better samples.
#    / 潜在変数を10個にすると、VAEは約0.7、N(0, I)を使ったAEは約0.82です（0.90を求めるassertで
#    止まります）。潜在変数を減らすと、生成画像は良くなります。
# 3. ``vae.decode(0.5 * z)`` for the VAE's samples: still about .78, though half of the spread is
#    gone. The test does not reward variety; look at the pictures too. With ``1.5 * z``, about .83,
#    and an assertion stops the run.
#    / VAEの生成画像を ``vae.decode(0.5 * z)`` に変えると、多様性が減ったのに正解率は
#    約0.78のままです。この検定は多様性を評価しません。図も見てください。``1.5 * z`` なら
#    約0.83です（assertで止まります）。
