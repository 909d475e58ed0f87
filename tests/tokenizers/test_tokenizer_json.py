"""tokenizer.json and the files around it: real Llama 2 files, and small ones for each rule."""

import json
from dataclasses import replace

import pytest
from tokenizers import Tokenizer
from vocabulary_files import random_texts

from modelkit.errors import BrokenFile, Unsupported
from modelkit.tokenizers import gguf_keys, tokenizer_bin, tokenizer_json
from modelkit.tokenizers._pretokenizers import GPT2, LLAMA3, RULES

STAND_INS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def document(**changes):
    """A small byte-level tokenizer."""
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}
    model = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["ab", "c"]]} | changes.pop("model", {})
    return {"pre_tokenizer": {**STAND_INS, "use_regex": True}, "model": model, **changes}


def read(found, **others):
    files = {name.replace("__", "."): json.dumps(value).encode() for name, value in others.items()}
    return tokenizer_json.read({"tokenizer.json": json.dumps(found).encode(), **files})


def split(regex, **changes):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False, **changes}


def name_of(*steps, **model):
    return read(document(pre_tokenizer={"type": "Sequence", "pretokenizers": list(steps)}, model=model)).pre


@pytest.fixture(scope="module")
def llama2(shared):
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "config.json")
    return {name: shared(f"layouts/lzlv_70b_fp16_hf/{name}").read_bytes() for name in names}


def test_llama2_through_gguf_and_rebuilt_gives_the_same_ids(llama2):
    vocabulary = tokenizer_json.read(llama2)  # its tokenizer.model is a git-lfs pointer, and not needed
    assert (vocabulary.kind, vocabulary.bos, vocabulary.eos, vocabulary.unknown) == ("spm", 1, 2, 0)
    assert (vocabulary.add_bos, vocabulary.add_eos, vocabulary.add_space_prefix) == (True, False, True)
    back = gguf_keys.read(gguf_keys.write(vocabulary))
    assert back == replace(vocabulary, pre="default")
    files = tokenizer_json.write(replace(back, document=None))
    ours, theirs = Tokenizer.from_str(files["tokenizer.json"].decode()), Tokenizer.from_str(vocabulary.document)
    assert ours.encode("Hello world", add_special_tokens=False).ids == [15043, 3186]
    for text in random_texts(500):
        found = ours.encode(text)
        assert found.ids == theirs.encode(text).ids
        assert ours.decode(found.ids) == theirs.decode(found.ids)
    built, original = json.loads(files["tokenizer.json"]), json.loads(vocabulary.document)
    assert built["model"].pop("ignore_merges") is False
    assert built["model"] == original["model"]


def test_llama2_reaches_llama2c_and_comes_back(llama2):
    vocabulary = tokenizer_json.read(llama2)
    back = tokenizer_bin.read(tokenizer_bin.write(vocabulary), 32000)
    assert (back.tokens, back.types, back.scores) == (vocabulary.tokens, vocabulary.types, vocabulary.scores)


def test_the_original_document_is_written_unchanged(llama2):
    files = tokenizer_json.write(tokenizer_json.read(llama2))
    assert files["tokenizer.json"] == llama2["tokenizer.json"]
    assert json.loads(files["tokenizer_config.json"])["bos_token"] == "<s>"
    assert json.loads(files["special_tokens_map.json"])["unk_token"] == "<unk>"


def test_only_a_pointer(llama2):
    with pytest.raises(BrokenFile, match=r"git-lfs pointer.*git lfs pull"):
        tokenizer_json.read({"tokenizer.model": llama2["tokenizer.model"]})


def test_a_tokenizer_of_nothing_but_added_tokens(shared):
    vocabulary = tokenizer_json.read({"tokenizer.json": shared("pytorch/tinypellm/tokenizer.json").read_bytes()})
    assert (vocabulary.tokens[:2], set(vocabulary.types)) == (("<s>", "</s>"), {3})
    assert (vocabulary.bos, vocabulary.eos, vocabulary.add_bos, vocabulary.add_eos) == (0, 1, True, True)
    files = tokenizer_json.write(replace(vocabulary, document=None))
    assert Tokenizer.from_str(files["tokenizer.json"].decode()).encode("<sep>").ids == [0, 3, 1]


def test_merge_rules_as_text_and_as_pairs():
    assert read(document(model={"merges": ["a b", "ab c"]})).merges == read(document()).merges == ("a b", "ab c")


def test_added_tokens_beyond_the_vocabulary():
    added = [{"id": 7, "content": "<s>", "special": True}, {"id": 5, "content": "[tool]", "special": False}]
    found = read(document(added_tokens=added))
    assert found.tokens[5:] == ("[tool]", "[PAD6]", "<s>")
    assert found.types == (1, 1, 1, 1, 1, 4, 5, 3)


def test_special_tokens_by_text_then_by_id():
    config = {"bos_token": {"content": "b"}, "eos_token": "not there", "pad_token": None}
    found = read(
        document(),
        tokenizer_config__json=config,
        special_tokens_map__json={"bos_token": "a", "eos_token": "c"},
        config__json={"bos_token_id": 3, "pad_token_id": 99},
        generation_config__json={"pad_token_id": [4, 3]},
    )
    assert (found.bos, found.eos, found.padding, found.unknown) == (1, 2, 4, None)


def test_the_template_decides_over_the_configuration():
    marks = {"a": {"id": "a", "ids": [0], "tokens": ["a"]}}
    template = {"type": "TemplateProcessing", "special_tokens": marks}
    before = [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    with_mark = {"type": "Sequence", "processors": [STAND_INS, {**template, "single": before}]}
    config = {"bos_token": "a", "add_bos_token": False, "add_eos_token": True}
    found = read(document(post_processor=with_mark), tokenizer_config__json=config)
    assert (found.add_bos, found.add_eos) == (True, False)
    found = read(document(), tokenizer_config__json=config)
    assert (found.add_bos, found.add_eos) == (False, True)
    assert read(document()).add_bos is False


def test_chat_template_from_its_three_places():
    several = {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}
    assert read(document(), tokenizer_config__json={"chat_template": "one"}).chat_template == "one"
    assert read(document(), tokenizer_config__json=several).chat_template == "d"
    files = {"tokenizer.json": json.dumps(document()).encode(), "chat_template.jinja": b"file"}
    assert tokenizer_json.read(files | {"tokenizer_config.json": json.dumps(several).encode()}).chat_template == "file"


def test_known_ways_of_cutting_text_in_their_spellings():
    assert name_of({**STAND_INS, "use_regex": True}) == "gpt-2"
    assert name_of(split(GPT2), STAND_INS) == "gpt-2"
    assert name_of({"type": "Digits", "individual_digits": True}, {**STAND_INS, "use_regex": True}) == "smollm"
    assert name_of(split(LLAMA3), STAND_INS, ignore_merges=True) == "llama-bpe"
    assert name_of(split(LLAMA3), STAND_INS) == "dbrx"
    assert name_of(split(LLAMA3, behavior="Removed", invert=True), STAND_INS) == "dbrx"
    plain = LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")
    assert name_of(split(plain), STAND_INS) == "dbrx"
    assert name_of(split(LLAMA3.replace("{1,3}", "")), STAND_INS) == "qwen2"


def words(name, text):
    vocabulary = replace(read(document()), pre=name, document=None)
    tokenizer = Tokenizer.from_str(tokenizer_json.write(vocabulary)["tokenizer.json"].decode())
    return [text[slice(*span)] for _, span in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("gpt-2 phi-2", ["I", "'ll", " pay", " 12345", "!!", "\n\n ", " It", "'", "S", " caf\u00e9"]),
        (
            "smollm starcoder command-r",
            ["I", "'ll", " pay", " ", *"12345", "!!", "\n\n ", " It", "'", "S", " caf\u00e9"],
        ),
        ("llama-bpe dbrx jais-2", ["I", "'ll", " pay", " ", "123", "45", "!!\n\n", " ", " It", "'S", " caf\u00e9"]),
        ("minicpm5", ["I", "'ll", " pay", " ", "123", "45", "!!\n\n", " ", " It", "'S", " caf\u00e9"]),
        ("qwen2 stablelm2 bailingmoe", ["I", "'ll", " pay", " ", *"12345", "!!\n\n", " ", " It", "'S", " caf\u00e9"]),
        ("seed-coder", ["I", "'ll", " pay", " ", *"12345", "!!", "\n\n", " ", " It", "'S", " caf\u00e9"]),
        ("exaone-moe", ["I", "'ll", " pay", " ", *"12345", "!!\n", "\n", " ", " It", "'S", " caf\u00e9"]),
        ("gpt-4o llama4", ["I'll", " pay", " ", "123", "45", "!!\n\n", " ", " It'S", " caf\u00e9"]),
        ("tekken", ["I", "'ll", " pay", " ", *"12345", "!!\n\n", " ", " It", "'S", " caf\u00e9"]),
        ("deepseek-v3", ["I", "'ll", " pay", " ", "123", "45", "!!\n\n", " ", " It", "'S", " caf\u00e9"]),
        (
            "deepseek-coder",
            ["I", "'", "ll", " pay", " ", *"12345", "!!", "\n", "\n", " ", " It", "'", "S", " caf\u00e9"],
        ),
        ("falcon", ["I", "'", "ll", " pay", " ", "123", "45", "!!", "\n\n ", " It", "'", "S", " caf\u00e9"]),
    ],
)
def test_words_of_each_group(names, expected):
    for name in names.split():
        assert words(name, "I'll pay 12345!!\n\n  It'S caf\u00e9") == expected, name


def test_unknown_ways_of_cutting_text_stay_unknown():
    assert name_of(split(r"\w+"), STAND_INS) is None
    assert name_of(split(LLAMA3, behavior="Removed"), STAND_INS) is None
    assert name_of({"type": "Whitespace"}, STAND_INS) is None
    assert name_of({**STAND_INS, "add_prefix_space": True}) is None
    assert name_of(split(LLAMA3.replace("{1,3}", "")), STAND_INS, ignore_merges=True) is None
    found = read(document(normalizer={"type": "Lowercase"}))
    assert found.pre is None
    with pytest.raises(Unsupported, match="no name in GGUF"):
        gguf_keys.write(found)
    assert tokenizer_json.write(found)["tokenizer.json"].decode() == found.document
    with pytest.raises(Unsupported, match="no name"):
        tokenizer_json.write(replace(found, document=None))
    with pytest.raises(Unsupported, match="kimi-k2"):
        tokenizer_json.write(replace(found, document=None, pre="kimi-k2"))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_loads_and_loses_no_character(name):
    stand_ins = [chr(byte) if 32 < byte < 127 else chr(256 + byte) for byte in range(256)]
    vocabulary = read(document(model={"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}))
    found = replace(vocabulary, pre=name, document=None, ignore_merges=RULES[name].ignore_merges)
    tokenizer = Tokenizer.from_str(tokenizer_json.write(found)["tokenizer.json"].decode())
    assert len(stand_ins) == 256
    for text in random_texts(20):
        words = tokenizer.pre_tokenizer.pre_tokenize_str(text)
        spans = [span for _, span in words]
        assert sorted(set().union(*(range(*span) for span in spans))) == list(range(len(text)))
    back = tokenizer_json.read(tokenizer_json.write(found))
    assert RULES[back.pre].steps == RULES[name].steps


@pytest.mark.parametrize("model", ["WordPiece", "Unigram", "WordLevel"])
def test_other_models_are_refused_by_name(model):
    with pytest.raises(Unsupported, match=model):
        read(document(model={"type": model}))


def test_merge_rules_that_no_scores_can_express_stay_rules():
    vocab = {"<unk>": 0, "\u2581": 1, "a": 2, "b": 3, "ab": 4, "ba": 5, "aba": 6}
    model = {"type": "BPE", "vocab": vocab, "unk_token": "<unk>", "byte_fallback": True}
    rules = ["a b", "b a", "ab a", "a ba"]
    assert read({"model": model | {"merges": rules}}).scores == (0.0, -4.0, -5.0, -6.0, -1.0, -2.0, -3.0)
    found = read({"model": model | {"merges": rules[:3]}})
    assert (found.scores, found.merges) == (None, ("a b", "b a", "ab a"))
    for write in (gguf_keys.write, tokenizer_bin.write):
        with pytest.raises(Unsupported):
            write(found)
    built = json.loads(tokenizer_json.write(replace(found, document=None))["tokenizer.json"])
    assert built["model"]["merges"] == rules[:3]


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"vocab": {"a": -1}}},
        {"model": {"vocab": {"a": 2**40}}},
        {"model": {"vocab": {"a": 0, "b": 0}}},
        {"model": {"vocab": {"a": True}}},
        {"model": {"vocab": []}},
        {"model": {"vocab": {"\ud800": 0}, "merges": []}},
        {"model": {"merges": [["a", "z"]]}},
        {"model": {"merges": ["a"]}},
        {"model": {"merges": {"a": "b"}}},
        {"added_tokens": [{"id": 0, "content": "z"}]},
        {"added_tokens": [{"id": 9, "content": "a"}]},
        {"added_tokens": [{"content": "z"}]},
        {"pre_tokenizer": 5},
        {"model": {"ignore_merges": "yes"}},
    ],
)
def test_damage_is_named(change):
    with pytest.raises(BrokenFile) as caught:
        read(document(**change))
    assert caught.value.fix


def test_neither_file_is_there():
    with pytest.raises(Unsupported, match=r"tokenizer\.json nor tokenizer\.model"):
        tokenizer_json.read({"config.json": b"{}"})


def test_deep_nesting_and_broken_text():
    for data in (b"[" * 100000, b'{"model":' * 500 + b"1" + b"}" * 500, b"\xff", b"[]", b"{"):
        with pytest.raises((BrokenFile, Unsupported)):
            tokenizer_json.read({"tokenizer.json": data})


def test_a_few_ids_may_have_no_token_and_a_short_file_makes_no_millions():
    """Two million tokens out of a few hundred bytes took a minute."""
    far = [{"id": 60_000, "content": "<far>", "special": True}]
    found = read(document(added_tokens=far))
    assert len(found.tokens) == 60_001
    assert (found.tokens[59_999], found.tokens[60_000]) == ("[PAD59999]", "<far>")
    for index in (70_000, 2**21 - 1):
        with pytest.raises(BrokenFile, match="and only 6 have a token"):
            read(document(added_tokens=[{**far[0], "id": index}]))
