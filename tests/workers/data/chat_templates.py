"""Chat templates of the kinds that models bring, and tokenizers that know their special tokens."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

DEFAULT_SYSTEM = (
    """{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\nYou help.<|im_end|>\n' }}
{%- endif %}"""
    + CHATML
)
"""ChatML that writes a system prompt of its own."""

THINKING = """{%- set ns = namespace(last_question=-1) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last_question = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}
{%- set parts = message.content.split('</think>') %}
{%- set answer = parts[-1].lstrip('\n') %}
{%- if loop.index0 > ns.last_question %}
{%- set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}
{{- '<think>\n' + thought + '\n</think>\n\n' + answer }}
{%- else %}{{- answer }}{%- endif %}
{%- else %}{{- message.content }}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""
"""Takes the reasoning out of answers to earlier questions, as Qwen3 does."""

DATED = """{{- bos_token }}
{%- if date_string is not defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}
{{- '<|header|>system<|/header|>\n\nToday Date: ' + date_string + '\n\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content | trim }}{%- set messages = messages[1:] %}{%- endif %}
{{- '<|eot|>' }}
{%- for message in messages %}
{{- '<|header|>' + message.role + '<|/header|>\n\n' + message.content | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header|>assistant<|/header|>\n\n' }}{%- endif %}"""
"""Writes a date and trims texts, as Llama 3 does."""

NO_SYSTEM = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Roles must alternate') }}{%- endif %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""
"""Knows no system role, as Gemma."""

INSTRUCT = """{{- bos_token }}
{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content + '\n\n' %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{{- '[INST] ' + (system if loop.index0 >= messages | length - 2 else '') + message.content + ' [/INST]' }}
{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}
{%- endfor %}"""
"""Has no generation prompt, and puts the system prompt into the newest question, as Mistral does."""

MARKED = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{- message.content + '<|im_end|>' }}{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
"""Marks what the assistant says."""

THINKING_PROMPT = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
"""Its generation prompt opens a thought that an answered conversation does not show, as DeepSeek-R1's."""

SPECIAL = [
    *("<pad>", "<bos>", "<eos>", "<unk>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|/header|>", "<|eot|>"),
    *("<start_of_turn>", "<end_of_turn>", "<think>", "</think>"),
]
_CORPUS = [
    "user\nassistant\nsystem\n\nHello there, what is 2 + 2? It is 4.\n",
    "  two  spaces\n\n\nthree lines",
    "äöü €",
]


def byte_tokenizer(swallowing: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE, which merges spaces and line breaks; the token `swallowing` takes white space behind it along."""
    core = Tokenizer(models.BPE())
    pattern = Regex(r"[^\r\n\w]?\w+|\d| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[AddedToken(token, rstrip=token == swallowing, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS * 3, trainer)
    return _wrapped(core)


def spaced_tokenizer(prepend_scheme: str) -> PreTrainedTokenizerFast:
    """A unigram tokenizer in the manner of SentencePiece: words begin with a mark that stands for a space."""
    words = sorted({f"▁{word}" for text in _CORPUS for word in text.split()})
    characters = sorted({character for text in _CORPUS for character in text.replace(" ", "▁")} | set("▁[]/INST:.\n"))
    vocabulary = [(token, 0.0) for token in SPECIAL] + [(word, -2.0) for word in words]
    vocabulary += [(character, -9.0) for character in characters if character not in words]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIAL.index("<unk>")))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=False)
    core.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme, split=False)
    return _wrapped(core)


def _wrapped(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[4:],
        clean_up_tokenization_spaces=False,
    )
