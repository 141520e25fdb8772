"""The data sets known by name: their files, the checksums of their contents, their mirrors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class IdxFile:
    """One file of a data set: its name, its shape, the SHA-256 of its uncompressed contents."""

    name: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Source:
    """Four IDX files and the addresses under which mirrors serve them gzipped (name + ".gz")."""

    name: str
    train_images: IdxFile
    train_labels: IdxFile
    test_images: IdxFile
    test_labels: IdxFile
    mirrors: tuple[str, ...]

    @property
    def files(self) -> tuple[IdxFile, ...]:
        """The four files."""
        return self.train_images, self.train_labels, self.test_images, self.test_labels


MNIST10K_IMAGES = IdxFile(
    "mnist10k-images-idx3-ubyte",
    (10_000, 28, 28),
    "2889698e6bc3614913e76901316712919d1998fc2b44512451bfe65bc1e668b1",
)
MNIST10K_LABELS = IdxFile(
    "mnist10k-labels-idx1-ubyte",
    (10_000,),
    "651e38e2ac0632f5113ec18f1df4977117f953197819034009971a6675a0df78",
)

MNIST = Source(
    name="mnist",
    train_images=IdxFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    train_labels=IdxFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    test_images=IdxFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    test_labels=IdxFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
)

# Zalando publishes MD5 sums of the .gz files. The sums of the contents below are those that several
# public projects, independently of each other, derived from files matching them.
FASHION_MNIST = Source(
    name="fashion-mnist",
    train_images=IdxFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    train_labels=IdxFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    test_images=IdxFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    test_labels=IdxFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
)
