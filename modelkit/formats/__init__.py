"""How a file is laid out. One file for each format; none of them opens a file by itself."""

from modelkit.formats._contract import Format as Format
from modelkit.formats._contract import Limit as Limit
from modelkit.shelf import Shelf

FORMATS: Shelf[Format] = Shelf(__name__, "format")
