"""Languages of labels: Wikidata's codes, and chains of them.

A chain is a tuple of codes, the preferred one first: the label of an entity is in the first language that has one.
`language_chain` makes a chain of what a user names, `check_languages` checks one that a program gives.

Sources know nothing of chains. They answer questions about a family of codes, such as zh with its variants zh-hans,
zh-hant and so on. So the answers of one chain can be used for another.
"""

from __future__ import annotations

from collections.abc import Sequence

from wikidata_cache.errors import BadOptionError

Languages = tuple[str, ...]

# "mul" has the names of which Wikidata has deleted the English copy.
DEFAULT_LANGUAGES: Languages = ("en", "mul", "en-gb", "en-ca", "en-us", "simple")
ALL_LANGUAGES = "all"  # what `load` takes in place of codes

# Wikidata's codes of labels (https://www.wikidata.org/w/api.php?action=query&meta=wbcontentlanguages), and older ones.
_CODE_LIST = """
aa aae ab abe abq abr abs ace acf acm ady ady-cyrl aeb aeb-arab aeb-latn af aig ak aln als alt am ami an ang ann anp
apc ar arc arn arq ary arz as ase ast atj av avk awa ay az azb ba ban ban-bali bar bbc bbc-latn bcc bci bcl bdr be
be-tarask bew bg bgc bgn bh bho bi bjn blk bm bn bnn bo bol bpy bqi br brh brx bs btm bto bug bug-bugi bxr ca cbk-zam
ccp cdo cdo-hant cdo-latn ce ceb ch chn cho chr chy ckb cnr co cop cps cpx cpx-hans cpx-hant cpx-latn cr crh crh-cyrl
crh-latn crh-ro cs csb cu cv cy da dag de de-at de-ch dga din diq dlg dsb dtp dty dua dv dz ee efi egl el el-cy eml en
en-ca en-gb en-us eo es es-419 et ett eu ext eya fa fat ff fi fit fj fkv fo fon fos fr fr-ca frc frm fro frp frr fuf
fur fvr fy ga gaa gag gan gan-hans gan-hant gcf gcr gd gez gl gld glk gmy gn gom gom-deva gom-latn gor got gpe grc gsw
gu guc gur guw gv ha hai hak hak-hans hak-hant hak-latn haw haz hbo he hi hif hif-latn hil hke hno ho hoc-latn hr hrx
hsb hsn ht hu hy hyw hz ia iba ibb id ie ig igl ii ik ike-cans ike-latn ilo inh io is isv-cyrl isv-latn it iu ja jam
jbo jut jv ka kaa kab kai kaj kbd kbd-cyrl kbp kcg kea kg kge khw ki kiu kj kjh kjp kk kk-arab kk-cn kk-cyrl kk-kz
kk-latn kk-tr kl km kn knc ko ko-kp koi koy kr krc kri krj krl ks ks-arab ks-deva ksh ksw ku ku-arab ku-latn kum kus
kv kw ky la lad lag lb lbe lez lfn lg li lij liv ljp lki lkt lld lmo ln lo loz lrc lt ltg lua lus luz lv lzh lzz mad
mag mai map-bms mdf mg mh mhr mi mid min mis mk ml mn mnc mnc-latn mnc-mong mni mnw mo moe mos mr mrh mrj ms ms-arab
mt mui mul mus mwl my myv mzn na nah nan nan-hant nan-latn-pehoeji nan-latn-tailo nap nb nds nds-nl ne new ng nia nit
niu nl nmz nn no nod nog non nov nqo nr nrm nso nup nv nxm ny nyn nyo nys oc ojb olo om ood or os ota otk pa pag pam
pap pap-aw pcd pcm pdc pdt pfl pi pih pjt pl pms pnb pnt ppu prg ps pt pt-br pwn pyu qu quc qug qya rar rgn rif rki rm
rmc rmy rn ro roa-tara rsk ru rue rup ruq ruq-cyrl ruq-latn rut rw rwr ryu sa sah sas sat sc scn sco sd sdc sdh se
se-fi se-no se-se sei ses sg sgs sh sh-cyrl sh-latn shi shi-latn shi-tfng shn shy shy-latn si sia simple sjd sje sjk
sjn sjt sju sk skr skr-arab sl sli sm sma smj smn sms sn so sq sr sr-ec sr-el srn sro srq ss ssf st stq sty su sv sw
syc syl szl szy ta tay tcy tdd te tet tg tg-cyrl tg-latn th ti tig tk tl tlb tly tly-cyrl tn to tok tpi tr tru trv ts
tt tt-cyrl tt-latn ttj tum tw ty tyv tzl tzm udm ug ug-arab ug-latn uga uk umu und ur uun uz uz-cyrl uz-latn ve vec
vep vi vls vmf vmw vo vot vro wa wal war wls wlx wo wuu wuu-hans wuu-hant xal xh xmf xpu xsy yap yi yo yrl yua yue
yue-hans yue-hant za zea zgh zgh-latn zh zh-cn zh-hans zh-hant zh-hk zh-mo zh-my zh-sg zh-tw zu zun zxx
"""
_CODES = frozenset(_CODE_LIST.split())
_SIMPLIFIED = ("zh-hans", "zh-cn", "zh-sg", "zh-my")
_TRADITIONAL = ("zh-hant", "zh-tw", "zh-hk", "zh-mo")
_EXPECTED = "expected Wikidata's codes, such as zh, ko or pt-br, separated by commas"


def language_chain(text: str) -> Languages:
    """Return the chain of the languages that a user names, such as "zh,ko".

    Each code is followed by the regional and script variants of its language, and the chain ends with
    `DEFAULT_LANGUAGES`, so that an entity without any other label still has one. "en" gives the default chain.

    Raises:
        BadOptionError: a code is not one of Wikidata's.
    """
    chain: list[str] = []
    for part in text.split(","):
        chain += _list_variants(_check_code(part.strip().lower()))
    chain += DEFAULT_LANGUAGES
    return tuple(dict.fromkeys(chain))


def check_languages(languages: Sequence[str]) -> Languages:
    """Return a chain that a program gives, after checking that it is a tuple or list of Wikidata's codes."""
    if isinstance(languages, str) or not languages:
        raise BadOptionError(f"languages={languages!r}: expected codes, such as those of language_chain('zh,ko').")
    return tuple(_check_code(code) for code in languages)


def list_own_languages(languages: Languages) -> Languages:
    """Return the codes of a chain before its English end: those that are not asked for by default.

    The English end is the longest end whose codes are all in `DEFAULT_LANGUAGES` and have its order, "en" before "mul"
    before "en-gb" and so on. In ("zh", "en-gb", "en", "mul") it is ("en", "mul"), and ("zh", "en-gb") are returned.
    """
    for start in range(len(languages)):  # the longest end comes first
        end = languages[start:]
        in_default_order = tuple(code for code in DEFAULT_LANGUAGES if code in end)
        if end == in_default_order:
            return languages[:start]
    return languages


def list_searched_languages(languages: Languages) -> Languages:
    """Return the codes in which a search for names is made: the first of each family of the chain, else English.

    Wikidata's search takes one language, and looks in its variants and in English too.
    """
    first: dict[str, str] = {}
    for code in list_own_languages(languages):
        first.setdefault(find_family(code), code)
    return tuple(first.values()) or ("en",)


def list_families(languages: Languages) -> tuple[str, ...]:
    """Return the families of a chain's own codes, sorted: ("ko", "zh") for the chain of "zh-tw,ko"."""
    return tuple(sorted({find_family(code) for code in list_own_languages(languages)}))


def is_language(code: str) -> bool:
    """Return whether a text is one of Wikidata's codes."""
    return code in _CODES


def find_family(code: str) -> str:
    """Return the language of a code without region and script: "zh" for "zh-hant"."""
    return code.partition("-")[0]


def list_codes(family: str) -> Languages:
    """Return all codes of a family, the plain one first: ("de", "de-at", "de-ch"); () for an unknown one."""
    if family == "zh":
        return ("zh", *_SIMPLIFIED, *_TRADITIONAL)
    return tuple(sorted(code for code in _CODES if find_family(code) == family))


def _list_variants(code: str) -> Languages:
    """Return a code and the others of its family, the nearest first."""
    family = find_family(code)
    if family == "en":
        return (code,)  # the default chain has the others
    nearest: Languages = ()
    if code in _TRADITIONAL:
        nearest = _TRADITIONAL
    if code in _SIMPLIFIED:
        nearest = _SIMPLIFIED
    return tuple(dict.fromkeys((code, *nearest, *list_codes(family))))


def _check_code(code: object) -> str:
    if not isinstance(code, str) or code not in _CODES:
        raise BadOptionError(f"{code!r} is not a language of Wikidata's labels; {_EXPECTED}.")
    return code
