"""Penn Treebank tokens of an English text, as COCO's caption evaluation makes them, without Java.

A text in, words out: split and lower-cased as Stanford's PTBTokenizer of CoreNLP 3.4.1 does it (`-preserveLines -lowerCase`), without
the punctuation that pycocoevalcap removes. Written from what that tokeniser returns, and held to it by golden pairs in the tests.
Like a lexer: of all rules that match at a place the longest match wins, and of equally long ones the first.

What is kept of its quirks: brackets stay as `-lrb-` and the like, because pycocoevalcap removes them in capitals only; so do runs such
as `?!` or `!!`; `£` is `#` and other currencies `$`; characters that it cannot read, such as emoji, vanish.
What differs: a text is read on its own, where Stanford's looks into the next line if an initial ("plan b.") or "no." ends a line; HTML
entities inside words, nested tags, a few apostrophes ("e'er"), and scripts whose marks it cannot read.
"""

from __future__ import annotations

import re
from functools import lru_cache

PUNCTUATION = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""What pycocoevalcap leaves out. The brackets never match, as its tokens are in lower case."""

_REWRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "¢": "cents", "£": "#", "€": "$", "¤": "$", "₠": "$",
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
}  # fmt: skip
_ENTITIES = {
    "&amp;": "&", "&AMP;": "&", "&quot;": '"', "&apos;": "'", "&nbsp;": " ", "&mdash;": " -- ", "&ndash;": " -- ",
}  # fmt: skip

# With a full stop these are one token. First those in any case, then those that need a capital, then those that stand before a number.
_ABBREVIATIONS = str.split("""
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co col colo comdr
    conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan
    jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct
    okla penn pfc ph plc ppte pptes ppty pptys pres prof profs pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt
    spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
""")
_ABBREVIATED_NAMES = str.split("Ark Az Del Ill La Mass Miss Ore Pa Tex Wash")
_NUMBERED = str.split("art ca fig figs no nos op pp prop")
# Before one of these, a letter with a full stop is the end of a sentence and not an initial.
_SENTENCE_STARTS = str.split("""
    A About According After An As At But Earlier He Her Here However If In It Last Many More Mr\\. Ms\\. Now Once One Other Our She Since
    So Some Such That The Their Then There These They This We What When While Yet You
""")

_SYMBOLS = "¡¥-©¬®-´¶-¹¿×÷;·‖‗‚„-•‣‰-‸※‾-⁂⁄⁰⁴-⁾₀-₎₤℀℁℃-℆℈℉℔№-℘℞-℣℥℧℩℮℺℻⅀-⅄⅊-⅍⅏⅕-⅞←-⯿、。〒・！-／：-＠［-｀｛-･￠￡￥￦"
_L = rf"(?:[^\W\d_{_SYMBOLS}¼-¾⅓⅔]|[\u0300-\u036f])"
"""A letter."""
_W = rf"(?:[^\W_{_SYMBOLS}¼-¾⅓⅔]|[\u0300-\u036f\u2010\u2011])"
"""A letter or digit."""
_APOSTROPHE = "['’]"
_NUMBER = r"(?:\d*(?:[.,:]\d+)+|\d+)"
_ENDING = rf"(?:'(?:[msd]|ll|re|ve)(?!{_L})|’(?:[msd]|ll|re|ve))"
_ELIDED = rf"(?:[dlo]['’`](?={_L}{_L}))?"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+"


def _compiled(*rules: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(rule, re.IGNORECASE) for rule in rules)


# A group in a rule is the token; what the rule reads beyond it only counts for its length.
_RULES = _compiled(
    # Words, and what is cut off them.
    rf"({_L}+?)n['’`]t",
    rf"({_L}+){_ENDING}",
    rf"(can)not(?!{_W}|['’](?:[msd]|ll|re|ve))",
    rf"(gon|wan)na(?!{_W}|['’](?:[msd]|ll|re|ve))",
    rf"(got)ta(?!{_W})",
    rf"(gim|lem)me(?!{_W})",
    rf"(y{_APOSTROPHE}){_L}|[dlj]{_APOSTROPHE}",
    rf"({_APOSTROPHE}t)(?:is|was)",
    rf"{_W}+",
    rf"[nN]['’`][tT](?:{_L}+)?",
    _ENDING,
    rf"{_APOSTROPHE}n(?:{_APOSTROPHE}|(?!{_W}))",
    rf"{_APOSTROPHE}(?:em|til|till|cause)(?!{_W})",
    rf"{_APOSTROPHE}(?:[2-9]0s|\d\d(?!\S))(?!{_W})",
    rf"(?:[dlo]['’`]{_L}{_L}+|(?-i:[A-HJ-XZn])['’`]{_L}{_L}+|[cq]u?['’](?:est|il|un|mon)|s'mores|nat'l|ma'am|cap'n|li'l)(?!{_W})",
    rf"{_L}+[aeiouy]['’`](?:[aeiou]|(?-i:[A-Z])){_L}*(?!{_W})",
    rf"(?:ol|somethin|dunkin){_APOSTROPHE}",
    # Numbers and what is made of words by hyphens, slashes, full stops and other marks.
    rf"[-+]?{_NUMBER}",
    r"\d{1,2}/\d{1,2}/\d{2,4}",
    r"(?:\d{1,4}-)?\d{1,4}/\d{1,4}",
    rf"{_ELIDED}{_W}(?:{_W}|[.,])*(?:-(?:{_INITIALS}\.|{_ELIDED}{_W}+))+",
    r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:/[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*){1,2}",
    rf"{_L}{_W}*(?:[.?!]{_L}{_W}*)+",
    rf"{_W}+(?:[_-]{_W}+)+",
    # Abbreviations.
    rf"{_INITIALS}\.",
    rf"(?:ph\.d|{'|'.join(_ABBREVIATIONS)})\.",
    rf"({_W}+\.)[,:;]",
    rf"(?-i:{'|'.join(word for name in _ABBREVIATED_NAMES for word in (name, name.upper()))})\.",
    rf"(?:{'|'.join(_NUMBERED)})\.(?=\s*\d)",
    rf"(?:{_L}\.)(?!\s+(?-i:{'|'.join(start + '|' + start.upper() for start in _SENTENCE_STARTS)})\s)",
    r"(?-i:[A-Z]+(?:&[A-Z]+)+)",
    r"c\+\+|[cf]#",
    # Addresses.
    r"https?://[^\s\"<>|().]+(?:\.[^\s\"<>|().]+)+[^\s\"<>|.!?,;:)'-]",
    r"(?:www\.)?(?:[^\s\"'`<>|.!?,(){}/&;:@#$%*+=-]+\.)+(?:com|net|org|edu)(?:/[^\s\"<>|()]+[^\s\"<>|.!?,;:)'-])?(?![A-Za-z0-9])",
    r"(?:mailto:)?[A-Za-z0-9][^\s\"<>|()]*@[^\s\"<>|().,!?;:]+(?:[.,'/-]*[^\s\"<>|().,!?;:'/])*",
    rf"#{_L}+",
    r"@[A-Za-z_][A-Za-z0-9_]*",
    # Signs.
    r"[<>]?[:;=](?:[-o*'][()]|-?[()\[{@|\\]|-?\](?!\))|-?(?:[dp]|(?-i:O))(?![a-z0-9]))",
    r":-?[\[\]|\\@{]|[:;=][\[\]]|:3(?!\d)",
    r"[-^=~]_[-^=~]|<_<|>_>|>_<|'_'",
    r"(?-i:[A-Z]{1,3})\$",
    r"&#\d+;",
    r"''|``|\.{3,}|[?!]+|-{2,}|\*+|_+|#+|@+|<<|>>",
    rf"[{_SYMBOLS}]",
    r"[!#-/:-@\[-`{-~]",
    rf"[{''.join(mark for mark in _REWRITTEN if mark not in '()[]{}')}]",
)
# Read before the text is split at white space, as they hold some.
_SPANNING = re.compile(
    r"(?P<tag>(?<!<)<[A-Za-z!?/][^<>\d][^<>]*>|<[A-Za-z]>)"
    r"|(?P<phone>\(\d{2,3}\)\s?\d{3,4}[-\s]\d{4,5}(?!\d))"
    r"|(?P<fraction>(?<![^\s-])\d{1,4}\s\d{1,4}/\d{1,4})"
)
_SEPARATE = re.compile(r"[A-Za-z]+[,;]?|[A-Za-z]{2,}[.!?]", re.ASCII)
_SPLIT = {"cannot", "gonna", "wanna", "gotta", "gimme", "lemme"}
_WITH_STOP = {*_ABBREVIATIONS, *(name.lower() for name in _ABBREVIATED_NAMES), *_NUMBERED}
_INITIAL_OR_NUMBERED = re.compile(rf"(?:^|[^A-Za-z0-9])(?:{_L}|{'|'.join(_NUMBERED)})\.", re.IGNORECASE)


def _scan(text: str) -> list[str]:
    """Tokens of a text by the rules above, in lower case."""
    tokens, place = [], 0
    while place < len(text):
        longest, token = place, ""
        for rule in _RULES:
            match = rule.match(text, place)
            if match and match.end() > longest:
                longest, token = match.end(), match[1] or match[0] if match.re.groups else match[0]
        if not token:  # white space, or a character that the tokeniser cannot read
            place += 1
            continue
        place += len(token)
        tokens.append(_rewritten(token.lower()))
    return tokens


def _rewritten(token: str) -> str:
    if token in _REWRITTEN:
        return _REWRITTEN[token]
    if len(token) > 2 and set(token) in ({"."}, {"-"}):
        return "..." if token[0] == "." else "--"
    if token[0] == "’" or token[1:] == "’t":
        return token if token in ("’n’", "’em", "’til", "’till", "’cause") or token[1:2].isdigit() else token.replace("’", "'")
    if token[0] in "<>:;=" and len(token) > 1:  # a smiley
        return token.replace("(", "-lrb-").replace(")", "-rrb-")
    return token


@lru_cache(maxsize=1 << 16)
def _piece(text: str) -> tuple[str, ...]:
    """Tokens of what stands between white space, without punctuation."""
    if _SEPARATE.fullmatch(text):  # a plain word, as most are
        lowered = text.lower()
        word = lowered.rstrip(",;.!?")
        if word not in _SPLIT and not (lowered[-1] == "." and word in _WITH_STOP):
            return (word,)
    return tuple(token for token in _scan(text) if token not in PUNCTUATION)


def _pieces(text: str) -> list[str]:
    if not _INITIAL_OR_NUMBERED.search(text):
        return [token for piece in text.split() for token in _piece(piece)]
    # Whether these end a sentence depends on what follows them.
    return [token for token in _scan(text) if token not in PUNCTUATION]


def ptb_tokens(text: str) -> list[str]:
    """Words of a caption as COCO's evaluation compares them.

    Returns:
        Tokens in lower case, punctuation left out; none holds white space.
    """
    text = text.replace("\u00ad", "")
    if "&" in text:
        for entity, character in _ENTITIES.items():
            text = text.replace(entity, character)
    tokens: list[str] = []
    place = 0
    for match in _SPANNING.finditer(text):
        tokens += _pieces(text[place : match.start()])
        place = match.end()
        if match.lastgroup == "phone":
            tokens += match[0].replace("(", "-lrb-").replace(")", "-rrb-").split()
        else:
            tokens += match[0].lower().split()
    return tokens + _pieces(text[place:])
