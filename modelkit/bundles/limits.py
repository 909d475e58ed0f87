"""What a bundle may hold at most. A file that says more is refused before anything is allocated for it."""

PIECE = 1 << 20
"""Bytes of a file that are coded at once: the memory of one step."""

DESCRIPTION = 32 << 20
"""Bytes of the description: it is read whole and stands in every volume."""

MANIFEST = 128 << 20
"""Bytes of the manifest: it is read whole."""

TABLE = 64 << 20
"""Bytes of a volume's piece table: it is read whole."""

DOCUMENT = 64 << 20
"""Bytes of SHA256SUMS or a document."""

FILES = 100_000
"""Files of a tree, and as many empty folders: each is an object in memory."""

VALUES = 20 * FILES
"""Marks that separate the values of a description or manifest: ten are a file and what it differs from."""

TRANSFORMS = 64
"""Transforms: a byte in the piece table, and more than there are dtypes."""

FIELDS = 16
"""Fields of a transform."""

BLOCK = 1024
"""Bytes of a transform's block: more than any stored block of weights."""

TARGETS = 0xFFFF
"""Places of one piece: a 16-bit field."""

VOLUMES = 9_999
"""Data volumes."""

PARITY_SET = 256
"""Data and parity volumes together: the elements of GF(2^8)."""

PATH = 1_024
"""Bytes of a path."""

DEPTH = 32
"""Parts of a path."""

STRIPES = (1 << 16, 1 << 20)
"""Stripe sizes: for volumes below and from `SMALL_VOLUME`."""

SMALL_VOLUME = 16 << 20
"""Volumes below this size have the small stripe, so that little is lost to padding."""

SMALL_TREE = 512 << 20
"""So have trees below this size: their digests take less room than the half of a large stripe that stays empty."""
