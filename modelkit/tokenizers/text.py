"""Text to ids and back, for every tokenizer that modelkit reads: tokenizer.json, GGUF, tokenizer.bin.

    text = Text(gguf_keys.read(metadata))
    ids = text.encode("Once upon a time")          # begins with BOS if the model's metadata wants it
    stream = text.stream(after=ids)
    print(stream.push(identity), end="")           # for each new token; at the end stream.rest()

Encoding runs on the `tokenizers` library (extra `text`), from the document itself where the source is a
tokenizer.json and from one built of the vocabulary where it is not. Decoding needs no library.

**Special tokens in a text.** `<|im_end|>` typed by a person is text, not the end of a turn: with `special=False`
(the default: corpora, files, what people type into a chat) control tokens are read letter by letter, as llama.cpp's
`parse_special=false` and transformers' `split_special_tokens` do. `special=True` reads them as tokens: for what a chat
template has made, and for a prompt written out by hand in a model's own format, as `llama-cli -p` and transformers
take every prompt. Tokens added as plain words (USER_DEFINED) are found either way, as in both of them.

Where others disagree: transformers 5 builds its LlamaTokenizer anew and puts no second space before a text that begins
with one; SentencePiece, llama.cpp and the tokenizer.json itself do, and so does this. llama2.c spells U+2581 in bytes;
the others take it for a space.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cached_property

from modelkit.errors import BadRequest
from modelkit.tokenizers import _library
from modelkit.tokenizers._building import adds_bos, adds_eos
from modelkit.tokenizers._ends import stop_ids
from modelkit.tokenizers._pieces import Pieces, Stream, decoded
from modelkit.tokenizers._vocabulary import Vocabulary

__all__ = ["Stream", "Text"]


class Text:
    """One vocabulary, ready for text. `stop_ids` are the tokens after which a model has nothing more to say.

    The library is loaded at the first `encode`: Unsupported when it is missing or when the vocabulary does not say
    how it cuts text into words, BrokenFile when the library does not survive the document.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.stop_ids = stop_ids(vocabulary)
        self._pieces = Pieces(vocabulary)
        self._lock = threading.Lock()

    def encode(
        self, text: str, *, bos: bool | None = None, eos: bool | None = None, special: bool = False
    ) -> list[int]:
        """The ids of a text.

        bos, eos: put the token in front, at the end. None = as the model's metadata says, but never a second one
        where the text has it already as a special token (chat templates write it themselves).
        special: control tokens spelled in the text are those tokens (see above).
        BadRequest when the text holds half characters or the wanted token does not exist.
        """
        _check(text)
        with self._lock, _library.guarded("use"):  # the switch belongs to the whole tokenizer
            self._tokenizer.encode_special_tokens = not special
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        before, after = self._marks
        before = before if bos is None else self._mark("begin", self.vocabulary.bos) if bos else []
        after = after if eos is None else self._mark("end", self.vocabulary.eos) if eos else []
        if bos is None and special and ids[: len(before)] == before:
            before = []
        if eos is None and special and after and ids[-len(after) :] == after:
            after = []
        return before + ids + after

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of ids; control tokens are left out unless `special`. Broken UTF-8 becomes U+FFFD."""
        return decoded(self.stream(special=special), ids)

    def stream(self, after: Iterable[int] = (), *, special: bool = False) -> Stream:
        """Text piece by piece. `after`: the ids that came before, which are not given again: what follows them keeps
        its leading space, and may complete their last character."""
        drops_space = self.vocabulary.kind == "spm" and self.vocabulary.add_space_prefix is not False
        stream = Stream(self._pieces, drops_space=drops_space, special=special)
        for identity in after:
            stream.push(identity)
        return stream

    @cached_property
    def _tokenizer(self):  # type: ignore[no-untyped-def]
        return _library.load(self.vocabulary)

    @cached_property
    def _marks(self) -> tuple[list[int], list[int]]:
        """What goes around a text: what the vocabulary says, else the document's template, else the kind's habit."""
        known = self.vocabulary
        before = [known.bos] if known.bos is not None and adds_bos(known) else []
        after = [known.eos] if known.eos is not None and adds_eos(known) else []
        own = _library.marks(self._tokenizer) if known.document is not None else None
        if own is None:
            return before, after
        return own[0] if known.add_bos is None else before, own[1] if known.add_eos is None else after

    def _mark(self, what: str, identity: int | None) -> list[int]:
        if identity is None:
            raise BadRequest(f"this tokenizer has no token to {what} a text", "leave it to the model's metadata")
        return [identity]


def _check(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"character {error.start:,} of the text is half a character", "give text in UTF-8") from None
