"""Languages: family, script, and whether XLM-R saw them in pre-training.

Codes are those of XTREME and XTREME-R, then those of MasakhaNER and AmericasNLI. "Seen" compares with the list of 100
languages in the XLM-R release (fairseq, examples/xlmr), where Tagalog is called Filipino; family and script are general
knowledge. The micro benchmark's languages come from its own table.
"""

from dataclasses import dataclass

from xlt_scale.micro.languages import LANGUAGES as MICRO_LANGUAGES


@dataclass(frozen=True)
class Language:
    """One language. `seen` is None where it is unknown whether the pre-training data had it."""

    code: str
    name: str
    family: str
    script: str
    seen: bool | None


_TABLE = """
af|Afrikaans|IE Germanic|Latin|yes
ar|Arabic|Afro-Asiatic|Arabic|yes
az|Azerbaijani|Turkic|Latin|yes
bg|Bulgarian|IE Slavic|Cyrillic|yes
bn|Bengali|IE Indo-Aryan|Bengali|yes
de|German|IE Germanic|Latin|yes
el|Greek|IE Greek|Greek|yes
en|English|IE Germanic|Latin|yes
es|Spanish|IE Romance|Latin|yes
et|Estonian|Uralic|Latin|yes
eu|Basque|isolate|Latin|yes
fa|Persian|IE Iranian|Arabic|yes
fi|Finnish|Uralic|Latin|yes
fr|French|IE Romance|Latin|yes
gu|Gujarati|IE Indo-Aryan|Gujarati|yes
he|Hebrew|Afro-Asiatic|Hebrew|yes
hi|Hindi|IE Indo-Aryan|Devanagari|yes
ht|Haitian Creole|Creole|Latin|no
hu|Hungarian|Uralic|Latin|yes
id|Indonesian|Austronesian|Latin|yes
it|Italian|IE Romance|Latin|yes
ja|Japanese|Japonic|Kana + Han|yes
jv|Javanese|Austronesian|Latin|yes
ka|Georgian|Kartvelian|Georgian|yes
kk|Kazakh|Turkic|Cyrillic|yes
ko|Korean|isolate (Koreanic)|Hangul|yes
lt|Lithuanian|IE Baltic|Latin|yes
ml|Malayalam|Dravidian|Malayalam|yes
mr|Marathi|IE Indo-Aryan|Devanagari|yes
ms|Malay|Austronesian|Latin|yes
my|Burmese|Sino-Tibetan|Myanmar|yes
nl|Dutch|IE Germanic|Latin|yes
pa|Punjabi|IE Indo-Aryan|Gurmukhi|yes
pl|Polish|IE Slavic|Latin|yes
pt|Portuguese|IE Romance|Latin|yes
qu|Quechua|Quechuan|Latin|no
ro|Romanian|IE Romance|Latin|yes
ru|Russian|IE Slavic|Cyrillic|yes
sw|Swahili|Niger-Congo|Latin|yes
ta|Tamil|Dravidian|Tamil|yes
te|Telugu|Dravidian|Telugu|yes
th|Thai|Kra-Dai|Thai|yes
tl|Tagalog|Austronesian|Latin|yes
tr|Turkish|Turkic|Latin|yes
uk|Ukrainian|IE Slavic|Cyrillic|yes
ur|Urdu|IE Indo-Aryan|Arabic|yes
vi|Vietnamese|Austro-Asiatic|Latin|yes
wo|Wolof|Niger-Congo|Latin|no
yo|Yoruba|Niger-Congo|Latin|no
zh|Chinese|Sino-Tibetan|Han|yes
am|Amharic|Afro-Asiatic|Ethiopic|yes
ha|Hausa|Afro-Asiatic|Latin|yes
ig|Igbo|Niger-Congo|Latin|no
rw|Kinyarwanda|Niger-Congo|Latin|no
lg|Luganda|Niger-Congo|Latin|no
luo|Luo|Nilo-Saharan|Latin|no
pcm|Nigerian Pidgin|Creole|Latin|no
aym|Aymara|Aymaran|Latin|no
bzd|Bribri|Chibchan|Latin|no
cni|Asháninka|Arawakan|Latin|no
gn|Guarani|Tupian|Latin|no
hch|Wixarika|Uto-Aztecan|Latin|no
nah|Nahuatl|Uto-Aztecan|Latin|no
oto|Otomí|Oto-Manguean|Latin|no
quy|Ayacucho Quechua|Quechuan|Latin|no
shp|Shipibo-Konibo|Panoan|Latin|no
tar|Rarámuri|Uto-Aztecan|Latin|no
"""

LANGUAGES: dict[str, Language] = {}
for _row in _TABLE.split("\n")[1:-1]:
    _code, _name, _family, _script, _seen = _row.split("|")
    LANGUAGES[_code] = Language(_code, _name, _family, _script, _seen == "yes")
for _micro in MICRO_LANGUAGES:
    LANGUAGES[_micro.code] = Language(_micro.code, _micro.code, f"micro {_micro.family}", "Latin", True)


def describe(code: str) -> Language:
    """The language of that code; a code that the table lacks stands for itself, in a family of its own."""
    return LANGUAGES.get(code, Language(code, code, code, "", None))
