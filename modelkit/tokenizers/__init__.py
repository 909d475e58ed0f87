"""Tokenizers between their homes: Hugging Face folders, GGUF metadata and llama2.c's tokenizer.bin.

Each module reads its file into a `Vocabulary` and writes a `Vocabulary` back; a conversion is one of each:

    from modelkit.tokenizers import gguf_keys, tokenizer_json
    values = gguf_keys.write(tokenizer_json.read({"tokenizer.json": data}))

    module                reads                                         writes
    tokenizer_json        {file name: bytes} of a folder                {file name: bytes}
    gguf_keys             {key: value} of a GGUF file, or None          {key: value}
    tokenizer_bin         bytes and the vocabulary size                 bytes
    sentencepiece_model   bytes of a tokenizer.model                    -

`Text` turns text into ids and back, whatever file the `Vocabulary` came from; `chat` renders conversations:

    text = Text(vocabulary)
    ids = text.encode("Once upon a time")
    text.decode(ids)
    prompt = chat.render(vocabulary, [{"role": "user", "content": "Hello"}])

The two need the extra `text` (tokenizers, jinja2), imported when they are used; everything else needs no library.

What a target cannot say raises `Unsupported`, a damaged file `BrokenFile`; nothing is guessed, since a wrong guess
gives wrong ids without any sign.
"""

from modelkit.tokenizers import chat, gguf_keys, sentencepiece_model, tokenizer_bin, tokenizer_json
from modelkit.tokenizers._vocabulary import Vocabulary
from modelkit.tokenizers.text import Text

__all__ = ["Text", "Vocabulary", "chat", "gguf_keys", "sentencepiece_model", "tokenizer_bin", "tokenizer_json"]
