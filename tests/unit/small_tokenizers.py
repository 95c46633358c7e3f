"""Tokenizers of the families that frame and cut texts differently, each trained on a page of text in many scripts."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# Question, passage, answer. Right to left, without spaces, with combining marks, with zero-width characters.
QUESTIONS = [
    ("Wie lang ist der Rhein?", "Der Rhein ist 1.233 Kilometer lang (davon 883 schiffbar).", "1.233 Kilometer"),
    ("متى بدأت البطولة؟", "بدأت البطولة في عام 1930، وأقيمت في الأُوروغْواي أول مرة.", "الأُوروغْواي"),
    ("איפה נולד המשורר?", "המשורר נולד בעיר ירושלים, והלך לפריז בשנת 1912.", "בעיר ירושלים"),
    ("गंगा कहाँ से निकलती है?", "गंगा नदी हिमालय के गंगोत्री हिमनद से निकलती है। यह लम्बी है।", "गंगोत्री हिमनद"),
    ("แม่น้ำไหลผ่านเมืองใด", "แม่น้ำเจ้าพระยาไหลผ่านกรุงเทพมหานครลงสู่อ่าวไทย", "กรุงเทพมหานคร"),
    ("长城有多长？", "长城全长超过两万公里，是中国古代的建筑。", "两万公里"),
    ("東京タワーの高さは？", "東京タワーは１９５８年に建てられ、高さは３３３㍍である。", "３３３㍍"),
    ("గోదావరి ఎక్కడ పుట్టింది?", "గోదావరి నది నాసిక్ దగ్గర త్రయంబకేశ్వరంలో పుట్టింది.", "త్రయంబకేశ్వరంలో"),
    ("Thủ đô ở đâu?", "Thủ đô của Việt Nam là Hà Nội, nằm bên bờ sông Hồng.", "Hà Nội"),
    (
        "Thủ đô ở đâu?",
        "Thu\u0309 đo\u0302 cu\u0309a Vie\u0323\u0302t Nam la\u0300 Ha\u0300 No\u0323\u0302i.",
        "Ha\u0300 No\u0323\u0302i",
    ),
    ("Mlima mrefu ni upi?", "Mlima mrefu zaidi barani Afrika ni Kilimanjaro, nchini Tanzania.", "Kilimanjaro"),
    ("کتاب را که نوشت؟", "او کتاب‌های بسیاری نوشت و در خانه\u200cاش می‌ماند.", "خانه\u200cاش"),
    (
        "What came first?",
        "First\u200b\u200b,\u200bthe \u00ad\ufeffegg\u200d came  before\tthe hen.",
        "the \u00ad\ufeffegg",
    ),
    ("한국의 수도는?", "대한민국의 수도는 서울특별시이며 인구는 약 천만 명이다.", "서울특별시"),
    ("Which flag?", "The crew raised 👩🏽‍🚀 and 🇰🇪 over the moon.", "👩🏽‍🚀 and 🇰🇪"),
    ("How?", "They were unbelievably slow.", "believably"),
]
TEXT = [text for question in QUESTIONS for text in question[:2]]


@cache
def metaspace() -> Any:
    """As XLM-R: Unigram, <s> A </s> </s> B </s>."""
    tokenizer = _unigram()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@cache
def closing() -> Any:
    """As XLNet: Unigram, A <sep> B <sep> <cls>, with token types 0, 1 and 2."""
    tokenizer = _unigram()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 </s>:0 <s>:2",
        pair="$A:0 </s>:0 $B:1 </s>:1 <s>:2",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def _unigram() -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


@cache
def word_piece() -> Any:
    """As multilingual BERT, uncased: accents and control characters are dropped, [CLS] A [SEP] B [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


@cache
def byte_level(add_prefix_space: bool = False) -> Any:
    """As RoBERTa: BPE over bytes, so that a character may be several tokens, <s> A </s> </s> B </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=add_prefix_space)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


FAMILIES = {"metaspace": metaspace, "closing": closing, "word_piece": word_piece, "byte_level": byte_level}
