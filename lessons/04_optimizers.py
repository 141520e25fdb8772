r"""
4. Optimizers / 最適化手法
==========================

| After this lesson you can write SGD, momentum, AdaGrad, RMSProp and Adam from memory, derive
  Adam's bias correction and say what it does, and compare optimizers fairly.
| この講を終えると、SGD・モメンタム・AdaGrad・RMSProp・Adamの更新式を何も見ずに書けます。
  Adamのバイアス補正を導いてその働きを説明でき、最適化手法を公平に比べられます。

| Needs lessons 1 to 3. Runs in about 4 s on two cores.
| 前提は第1講から第3講。実行時間は約4秒（2コア）。

.. list-table:: Exam terms / 試験の用語（日本語 / English）

   * - 勾配降下法、確率的勾配降下法（SGD）
     - gradient descent, stochastic gradient descent
   * - 学習率、ハイパーパラメータ
     - learning rate, hyperparameter
   * - モメンタム
     - momentum
   * - 移動平均、バイアス補正
     - moving average, bias correction
   * - エポック、ミニバッチ
     - epoch, mini-batch
"""

# %%
# Five rules / 5つの更新則
# ------------------------
# All parameters of a model stand in one vector :math:`\theta`, their gradients in one vector g. To
# first order :math:`L(\theta + \delta) = L(\theta) + g \cdot \delta`: of all small steps of one
# length, the one along -g lowers L most. With the g of a mini-batch instead of all data, that is
# stochastic gradient descent, SGD. The others remember former gradients:
#
# - **momentum** a velocity: steps in one direction add up, steps to and fro cancel;
# - **AdaGrad** the sum of :math:`g^2`, for each parameter its own: where gradients have been large,
#   steps are small;
# - **RMSProp** a moving average of :math:`g^2` instead, which forgets;
# - **Adam** moving averages of g and of :math:`g^2`, corrected for their start at zero.
#
# モデルの全パラメータを1本のベクトル :math:`\theta` に、その勾配をgに並べます。1次近似
# :math:`L(\theta + \delta) = L(\theta) + g \cdot \delta` によれば、同じ大きさの小さな更新のうち、
# Lを最も減らすのは-gの向きの更新です。gを全データではなくミニバッチで求めるのが、確率的勾配降下法
# （SGD）です。ほかの手法は過去の勾配を覚えています。
#
# - **モメンタム** は速度を覚えます。同じ向きの更新は積み重なり、行ったり来たりする更新は打ち消し
#   合います。
# - **AdaGrad** は :math:`g^2` の総和をパラメータごとに覚えます。大きな勾配を受けてきた
#   パラメータほど更新量が小さくなります。
# - **RMSProp** は総和の代わりに :math:`g^2` の移動平均を使うので、古い勾配を忘れます。
# - **Adam** はgと :math:`g^2` の移動平均を使い、0から始めたことによる偏りを補正します。

import numpy as np
import threadpoolctl

from scratchvae import SGD, AdaGrad, Adam, BernoulliNLL, Dense, Momentum, RMSProp, Sequential, plots
from scratchvae.datasets import mnist10k
from scratchvae.layers import mlp, pack

threadpoolctl.threadpool_limits(1)  # matrices as small as these gain nothing from a second thread


def sgd(theta, g, t):
    """Remember nothing."""
    theta -= 0.1 * g


def momentum(theta, g, t, v):
    """Remember a velocity v."""
    v *= 0.9
    v -= 0.01 * g
    theta += v


def adagrad(theta, g, t, h):
    """Remember the sum h of g^2."""
    h += g * g
    theta -= 0.01 * g / (np.sqrt(h) + 1e-10)


def rmsprop(theta, g, t, h):
    """Remember a moving average h of g^2."""
    h *= 0.99
    h += 0.01 * g * g
    theta -= 0.001 * g / (np.sqrt(h) + 1e-8)


def adam(theta, g, t, m, v):
    """Remember moving averages m of g and v of g^2; t counts the steps from 1."""
    m *= 0.9
    m += 0.1 * g
    v *= 0.999
    v += 0.001 * g * g
    theta -= 0.001 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


FIVE = {"SGD": SGD, "momentum": Momentum, "AdaGrad": AdaGrad, "RMSProp": RMSProp, "Adam": Adam}
rng = np.random.default_rng(0)
gradients = rng.normal(size=(100, 6)) * [1e-3, 1e-2, 0.1, 1, 10, 100]  # six parameters
for by_hand, rule in zip((sgd, momentum, adagrad, rmsprop, adam), FIVE.values(), strict=True):
    mine, theirs, optimizer = np.zeros(6), np.zeros(6), rule()  # its defaults are our constants
    slots = [np.zeros(6) for _ in rule.slots]
    for t, g in enumerate(gradients, start=1):
        by_hand(mine, g, t, *slots)
        optimizer.step(theirs, g)
        assert np.allclose(mine, theirs, rtol=1e-9, atol=1e-15)

# %%
# Bias correction / バイアス補正
# ------------------------------
# Let m be the moving average of g, :math:`m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t` with
# :math:`\beta_1 = 0.9`, and v that of :math:`g^2`, with :math:`\beta_2 = 0.999`. Adam's step is
# :math:`-lr\, \hat m / (\sqrt{\hat v} + \varepsilon)`. A moving average that starts at zero is too
# small at first. With :math:`m_0 = 0`, and gradients whose mean stays the same,
#
# .. math:: m_t = (1 - \beta_1) \sum_{s=1}^{t} \beta_1^{t-s} g_s, \qquad
#    \mathrm{E}[m_t] = \mathrm{E}[g]\,(1 - \beta_1) \sum_{s=1}^{t} \beta_1^{t-s}
#    = \mathrm{E}[g]\,(1 - \beta_1^t),
#
# and likewise :math:`\mathrm{E}[v_t] = \mathrm{E}[g^2]\, (1 - \beta_2^t)`. Adam divides both by
# these factors. A constant g then gives :math:`\hat m = g` and :math:`\hat v = g^2`: steps as long
# as the learning rate, from the first one on.
#
# Without the correction, one often reads, the first steps would be too small. With the usual
# constants they are too *large*: m is too small by :math:`1 - \beta_1^t`, but it is divided by
# :math:`\sqrt{v}`, too small by :math:`\sqrt{1 - \beta_2^t}`, which is smaller still as 0.999 is
# closer to 1. The first step is 3.2 times too long, the 12th 6.6 times. (RMSProp, which corrects
# nothing, starts with a step 10 times too long.)
#
# gの移動平均を
# m（:math:`m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t`、:math:`\beta_1 = 0.9`）、:math:`g^2` の
# 移動平均をv（:math:`\beta_2 = 0.999`）とします。Adamの更新量は
# :math:`-lr\, \hat m / (\sqrt{\hat v} + \varepsilon)` です。0から始めた移動平均は、最初のうち
# 小さすぎます。勾配の平均が一定なら、mの期待値はgの期待値の :math:`1 - \beta_1^t` 倍です。同様に、
# vの期待値は :math:`g^2` の期待値の :math:`1 - \beta_2^t` 倍です。Adamはm、vをそれぞれこの値で
# 割ります。gが一定なら :math:`\hat m = g`、:math:`\hat v = g^2` となり、1ステップ目から更新量が
# 学習率に等しくなります。
#
# 「補正しないと最初の更新量が小さすぎる」という説明を見かけますが、標準的な定数では、逆に
# *大きすぎる* のです。mは :math:`1 - \beta_1^t` 倍ですが、それを割る :math:`\sqrt{v}` は
# :math:`\sqrt{1 - \beta_2^t}` 倍で、0.999のほうが1に近い分、さらに小さいからです。更新量は
# 1ステップ目で3.2倍、12ステップ目で6.6倍にもなります（補正のないRMSPropでは、1ステップ目が
# 10倍です）。


class UncorrectedAdam(Adam):
    """Adam without the correction."""

    def _update(self, xp, theta, g, scratch, m, v, *corrections):
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        theta -= self.learning_rate * m / (np.sqrt(v) + self.eps)


def step_sizes(rule, stream):
    """Return |step| / learning rate of one parameter that meets these gradients."""
    optimizer, theta, places = rule(), np.zeros(1), [0.0]
    for g in stream:
        optimizer.step(theta, np.array([g]))
        places.append(theta.item())
    return np.abs(np.diff(places)) / optimizer.learning_rate


t, ones = np.arange(1, 1201), np.ones(1200)
plain = {name: step_sizes(rule, ones) for name, rule in FIVE.items()}
uncorrected = step_sizes(UncorrectedAdam, ones)
assert np.allclose(plain["Adam"], 1, rtol=0, atol=1e-6)
assert np.allclose(uncorrected, (1 - 0.9**t) / np.sqrt(1 - 0.999**t), rtol=1e-6)
assert np.isclose(uncorrected[0], 3.16, rtol=0, atol=0.01)
assert np.isclose(uncorrected[11], 6.57, rtol=0, atol=0.01)
assert uncorrected.argmax() == 11
assert np.isclose(plain["RMSProp"][0], 10)

# %%
# What each remembers / 何を覚えているか
# --------------------------------------
# Give one parameter the gradient 1 at every step, but 100 at the 101st, and divide its steps by
# those of a run without this outlier. SGD takes one step that is 100 times as long and has
# forgotten it; momentum (0.9) needs some tens of steps. RMSProp (0.99) makes small steps for
# hundreds, Adam (0.999) for thousands of steps. AdaGrad keeps the outlier in its sum for ever,
# where it weighs as much as 10,000 gradients of 1.
#
# Then multiply all gradients by 1000, as a loss that is summed instead of averaged might. SGD and
# momentum make steps 1000 times as long; the other three do not notice.
#
# 1つのパラメータに毎ステップ勾配1を与え、101ステップ目だけ100を与えます。この外れ値がない場合との
# 更新量の比を見ると、SGDは一度だけ100倍の更新をした後は忘れ、モメンタム（0.9）は忘れるのに
# 数十ステップかかります。RMSProp（0.99）は数百ステップ、Adam（0.999）は数千ステップにわたって
# 更新量が小さくなります。AdaGradでは外れ値が総和に残り続け、勾配1の1万回分の重みを持ちます。
#
# 次に、すべての勾配を1000倍します（損失を平均でなく和で定義するとこうなり得ます）。SGDと
# モメンタムの更新量は1000倍になりますが、ほかの3つは変わりません。

outlier = np.where(t == 101, 100.0, 1.0)
memory = {name: step_sizes(rule, outlier) / plain[name] for name, rule in FIVE.items()}
scaled = {name: step_sizes(rule, 1000 * ones) / plain[name] for name, rule in FIVE.items()}
AFTER = (0, 1, 10, 100, 1000)
print("             remembers   k steps after the outlier, relative to no outlier    gradients")
print("                        " + "".join(f"{f'k = {k}':>9s}" for k in AFTER) + "        x 1000")
for name, rule in FIVE.items():
    row = "".join(f"{memory[name][100 + k]:9.2f}" for k in AFTER)
    print(f"{name:12s} {len(rule.slots)} vectors  {row}{scaled[name].mean():14.2f}")
    assert np.allclose(scaled[name], 1000 if name in ("SGD", "momentum") else 1, rtol=1e-3)
assert np.isclose(memory["SGD"][101], 1)
assert memory["momentum"][110] > 2
assert np.allclose([memory["momentum"][200], memory["RMSProp"][1100]], 1, rtol=0, atol=0.01)
assert max(memory["RMSProp"][200], memory["Adam"][200]) < 0.2
assert memory["Adam"][1100] < 0.5
assert np.isclose(memory["AdaGrad"][1100], np.sqrt(1101 / (1100 + 1e4)))

# %%
# One real loss / 実データの損失で比べる
# --------------------------------------
# Digits of 14 x 14 pixels (each the mean of four), 50 ReLU units, ten sigmoid outputs, the negative
# log-likelihood of lesson 3, two epochs of 90 steps with 100 digits each. A comparison is fair if
# every optimizer has its own best learning rate, found by the same search: six rates from 1 to 316
# times its default, two runs each. The lowest mean training loss wins, must not lie at an end of
# the grid, and is run again with three other seeds.
#
# 14×14画素（4画素の平均）の数字、ReLU 50ユニット、シグモイド出力10個、第3講の負の対数尤度を使い、
# 100枚のミニバッチで1エポック90ステップ、計2エポック学習します。公平に比べるには、手法ごとに最良の
# 学習率を、同じ手順で探さなければなりません。既定値の1倍から316倍まで6つの学習率を、2回ずつ
# 試します。訓練データでの損失の平均が最小のものを選び（候補の両端であってはいけません）、別の3つの
# シードで学習し直します。

data = mnist10k()
x_train, x_test = (
    np.ascontiguousarray(x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196))
    for x in (data.x_train, data.x_test)
)
t_train = np.eye(10, dtype=np.float32)[data.y_train]
SIX = FIVE | {"Adam, uncorrected": UncorrectedAdam}


def train(optimizer, seed):
    """Return final training loss, nats, test accuracy, and the loss every ten steps."""
    rng = np.random.default_rng(seed)
    net = Sequential(*mlp((196, 50), "relu", rng, "float32").layers, Dense(50, 10, rng=rng))
    theta, grad = pack({"net": net}, "cpu")  # the layers' W, b, dW, db become views of these two
    nll, curve = BernoulliNLL(), []
    for _ in range(2):
        for rows in rng.permutation(9000).reshape(90, 100):
            if optimizer.t % 10 == 0:
                curve.append(nll.per_example(net.apply(x_train[:400]), t_train[:400]).mean())
            nll.forward(net.forward(x_train[rows]), t_train[rows])
            net.backward(nll.backward(), need_dx=False)
            optimizer.step(theta, grad)
    hits = net.apply(x_test).argmax(axis=1) == data.y_test
    return nll.per_example(net.apply(x_train[:4000]), t_train[:4000]).mean(), hits.mean(), curve


factors = 10 ** (np.arange(6) / 2)
grid, best, runs, mean = {}, {}, {}, {}
print("\ntraining loss (nats), mean of seeds 100 and 101, for the default learning rate times ...")
print(" " * 20 + "default" + "".join(f"{f:8.1f}" for f in factors))
for name, rule in SIX.items():
    default = rule().learning_rate
    losses = [[train(rule(default * f), seed)[0] for seed in (100, 101)] for f in factors]
    grid[name] = np.mean(losses, axis=1)
    best[name] = int(grid[name].argmin())
    print(f"{name:20s}{default:7.3f}" + "".join(f"{v:8.2f}" for v in grid[name]))
print("\nwith the best of these, seeds 0, 1, 2 (mean, standard deviation)")
print(" " * 20 + "   rate   training loss   test accuracy")
for name, rule in SIX.items():
    rate = rule().learning_rate * factors[best[name]]
    runs[name] = [train(rule(rate), seed) for seed in (0, 1, 2)]
    losses, hits = np.array([run[:2] for run in runs[name]]).T
    mean[name] = losses.mean()
    print(f"{name:20s}{rate:7.3f}   {mean[name]:.3f} ± {losses.std(ddof=1):.3f}   ", end="")
    print(f"{hits.mean():13.3f}")

among_five = max(mean[name] for name in FIVE) / min(mean[name] for name in FIVE)
adam_rates = grid["Adam"].max() / grid["Adam"].min()
print(
    f"\nworst loss over best: the five, tuned, {among_five:.1f}; the rates of Adam {adam_rates:.1f}"
)
assert all(0 < best[name] < 5 for name in FIVE)
assert among_five < 2 < 3 < adam_rates
assert max(FIVE, key=lambda name: grid[name][0]) == "Adam"
assert mean["Adam"] < min(mean[name] for name in ("SGD", "AdaGrad", "RMSProp"))
assert mean["momentum"] < mean["SGD"]
assert grid["Adam, uncorrected"][0] < 0.7 * grid["Adam"][0]
assert grid["Adam, uncorrected"][4] > 2 * grid["Adam"][4]
assert mean["Adam, uncorrected"] < 1.2 * mean["Adam"]
assert 0.7 < mean["momentum"] / mean["Adam"] < 1.4

# %%
# What to see / 結果の見どころ
# ----------------------------
# - The learning rate matters more than the optimizer: the five, each with its best rate, lie within
#   a factor of about 1.5; Adam alone, with six rates, within a factor of about 7.
# - With its default rate Adam is the *slowest* of the five in these 180 steps. With its best rate
#   it is ahead of SGD, AdaGrad and RMSProp, and level with momentum. (Long trainings are another
#   matter: lesson 12 uses the default.)
# - Without its correction Adam is faster at small rates, as its steps are longer, and fails at
#   large ones; with its best rate it is no worse. The correction does not make Adam faster. It
#   makes the learning rate mean the same at the first step as at the thousandth.
#
# - 手法よりも学習率のほうが重要です。それぞれ最良の学習率なら5手法の差は1.5倍程度ですが、Adamだけを
#   見ても、6つの学習率の間には約7倍の差があります。
# - この180ステップでは、Adamは既定の学習率だと5手法中 *最も遅く*、最良の学習率なら、
#   SGD・AdaGrad・RMSPropより速く、モメンタムと互角です（長く学習する場合は話が別で、第12講では
#   既定値を使います）。
# - 補正のないAdamは、更新量が大きい分、小さな学習率では速く、大きな学習率では失敗します。最良の
#   学習率なら、補正したものに劣りません。補正はAdamを速くするものではなく、1ステップ目でも
#   1000ステップ目でも学習率が同じ意味を持つようにするものです。

COLOURS = ("#999933", "#E69F00", "#CC79A7", "#117733", plots.BLUE, plots.INK)
STYLES = ("-", "-.", "--", (0, (1, 1)), "-", ":")
figure, (descent, rates, past, correction) = plots.new_figure(12, 9, rows=2, columns=2)
for name, colour, style in zip(SIX, COLOURS, STYLES, strict=True):
    line = {"label": name, "color": colour, "linestyle": style, "linewidth": 2}
    rates.plot(factors, grid[name], marker="o", **line)
    if name in FIVE:
        descent.plot(10 * np.arange(18), np.mean([run[2] for run in runs[name]], axis=0), **line)
        past.plot(np.arange(1100), memory[name][100:], **line)
    if "Adam" in name:
        correction.plot(t, plain.get(name, uncorrected), **line)
past.set(xscale="symlog", yscale="log")
correction.set(xscale="log", ylim=(0, 7))
rates.set_xscale("log")
for ax in (descent, rates):
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_yticks([0.4, 0.6, 1, 2, 4], ["0.4", "0.6", "1", "2", "4"])
plots.style(descent, title="Each with its best rate", xlabel="step", ylabel="loss, nats")
plots.style(rates, title="Loss after 180 steps", xlabel="rate / default", ylabel="loss, nats")
plots.style(past, title="After one gradient of 100", xlabel="steps", ylabel="step / usual step")
plots.style(correction, title="Bias correction", xlabel="step", ylabel="step / learning rate")
for ax in (descent, rates, past, correction):
    ax.legend(frameon=False, loc="upper right")
rates.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.32, 1.0))
plots.save(figure, "out/04_optimizers.png")

# %%
# Points for the exam / 試験のポイント
# ------------------------------------
# - Momentum: v = 0.9 v - lr g, theta = theta + v; a constant gradient is amplified 10 times.
#   / モメンタム：v = 0.9 v - lr g、theta = theta + v。一定の勾配なら更新量は10倍になる。
# - AdaGrad: h = h + g^2; the rate of each parameter, lr / sqrt(h), can only fall.
#   / AdaGrad：h = h + g^2。各パラメータの実質的な学習率lr / sqrt(h)は減る一方。
# - RMSProp: h = rho h + (1 - rho) g^2; old gradients are forgotten.
#   / RMSProp：h = rho h + (1 - rho) g^2。古い勾配は忘れられる。
# - Adam: moving averages m of g (like momentum) and v of g^2 (like RMSProp), both divided by
#   ``1 - beta^t``.
#   / Adam：gの移動平均m（モメンタムに相当）とg^2の移動平均v（RMSPropに相当）を、それぞれ
#   ``1 - beta^t`` で割る。
# - AdaGrad, RMSProp and Adam do not see the scale of the loss; SGD and momentum do.
#   / AdaGrad・RMSProp・Adamは損失の定数倍に影響されない。SGDとモメンタムは影響される。
# - Memory beside theta: SGD 0 vectors, momentum, AdaGrad, RMSProp 1, Adam 2.
#   / thetaのほかに保持するベクトルは、SGDが0本、モメンタム・AdaGrad・RMSPropが1本、Adamが2本。

# %%
# Try it / 試してみよう
# ---------------------
# 1. Print ``step_sizes(lambda: UncorrectedAdam(beta2=0.9), ones)``: with equal betas the first
#    steps are too short, from 0.32 on.
#    / ``step_sizes(lambda: UncorrectedAdam(beta2=0.9), ones)`` を表示します。betaが2つとも0.9なら、
#    補正しない更新量は逆に小さく、学習率の0.32倍から始まります。
# 2. Write ``optimizer.step(theta, 100 * grad)`` in ``train``: SGD fails at every rate, momentum at
#    all but the smallest (even there it ends at 1.7), and the rows of the others hardly change.
#    / ``train`` で ``optimizer.step(theta, 100 * grad)`` とすると、SGDはどの学習率でも、
#    モメンタムは最小の学習率（それでも損失は1.7）を除いて失敗し、ほかの行はほぼ変わりません。
# 3. Train for 8 epochs instead of 2: the five, tuned, come a little closer (1.3), and with default
#    rates AdaGrad is now behind Adam. In 2 and 3 an assertion stops the run after the tables.
#    / 2エポックを8エポックにすると、5手法の差は少し縮み（1.3倍）、既定の学習率ではAdaGradがAdamより
#    遅くなります。2と3では、表を表示した後にassertで止まります。
