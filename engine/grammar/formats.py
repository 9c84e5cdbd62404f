"""The formats of JSON Schema that a regular language expresses, as languages.

`FORMATS` names those that are enforced: to the letter of their RFCs, or a little more narrowly where noted, never more
widely. `UNENFORCEABLE` are formats of the standard that no regular language captures. Any other name is an annotation,
as the standard says of formats it does not know (OpenAPI's int32, password …).
"""

from collections.abc import Callable
from functools import lru_cache

from basemlx.engine.grammar.languages import Language
from basemlx.engine.grammar.patterns import parse_pattern

UNENFORCEABLE = frozenset({"idn-hostname", "regex"})

_DATE = (
    r"(?:\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
    r"|(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_IDN_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u{80}-\u{10FFFF}-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_H16 = r"[0-9A-Fa-f]{1,4}"
_LS32 = rf"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = "(?:" + "|".join(
    [
        rf"(?:{_H16}:){{6}}{_LS32}",
        rf"::(?:{_H16}:){{5}}{_LS32}",
        rf"(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}",
        rf"(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}",
        rf"(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}",
        rf"(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}",
        rf"(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}",
        rf"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}",
        rf"(?:(?:{_H16}:){{0,6}}{_H16})?::",
    ]
) + ")"  # fmt: skip
_ADDRESS = rf"\[(?:{_IPV4}|IPv6:{_IPV6})\]"
_POINTER = r"(?:/(?:[^/~]|~[01])*)*"


def _own(pattern: str) -> Language:
    return parse_pattern(pattern, max_chars=None)


def _time() -> str:
    """RFC 3339 full-time. A leap second is 23:59:60 in UTC; offsets of whole and half hours are listed."""
    fraction = r"(?:\.\d+)?"
    leaps = [rf"23:59:60{fraction}(?:[Zz]|[+-]00:00)"]
    for sign in (1, -1):
        for hours in range(24):
            for minutes in (0, 30):
                if hours == minutes == 0:
                    continue
                local = (23 * 60 + 59 + sign * (60 * hours + minutes)) % 1440
                offset = f"\\{'+' if sign > 0 else '-'}{hours:02}:{minutes:02}"
                leaps.append(rf"{local // 60:02}:{local % 60:02}:60{fraction}{offset}")
    hour, minute = r"(?:[01]\d|2[0-3])", r"[0-5]\d"
    usual = rf"{hour}:{minute}:[0-5]\d{fraction}(?:[Zz]|[+-]{hour}:{minute})"
    return f"(?:{usual}|{'|'.join(leaps)})"


def _uri(reference: bool, beyond_ascii: str = "", private: str = "") -> str:
    """RFC 3986, and with `beyond_ascii` and `private` RFC 3987."""
    unreserved = rf"A-Za-z0-9._~{beyond_ascii}\-"
    delims = r"!$&'()*+,;="
    percent = r"%[0-9A-Fa-f]{2}"
    pchar = rf"(?:[{unreserved}{delims}:@]|{percent})"
    segments = rf"(?:/{pchar}*)*"
    without_colon = rf"(?:[{unreserved}{delims}@]|{percent})+"
    future = rf"[vV][0-9A-Fa-f]+\.[{unreserved}{delims}:]+"
    host = rf"(?:\[(?:{_IPV6}|{future})\]|(?:[{unreserved}{delims}]|{percent})*)"
    authority = rf"(?:(?:[{unreserved}{delims}:]|{percent})*@)?{host}(?::\d*)?"
    absolute = rf"/(?:{pchar}+{segments})?"
    tail = rf"(?:\?(?:{pchar}|[/?{private}])*)?(?:#(?:{pchar}|[/?])*)?"
    full = rf"[A-Za-z][A-Za-z0-9+.\-]*:(?://{authority}{segments}|{absolute}|{pchar}+{segments}|){tail}"
    if not reference:
        return rf"^(?:{full})$"
    relative = rf"(?://{authority}{segments}|{absolute}|{without_colon}{segments}|){tail}"
    return rf"^(?:{full}|{relative})$"


_UCS = (
    r"\u{A0}-\u{D7FF}\u{F900}-\u{FDCF}\u{FDF0}-\u{FFEF}"
    + "".join(rf"\u{{{plane:X}0000}}-\u{{{plane:X}FFFD}}" for plane in range(1, 14))
    + r"\u{E1000}-\u{EFFFD}"
)
_PRIVATE = r"\u{E000}-\u{F8FF}\u{F0000}-\u{FFFFD}\u{100000}-\u{10FFFD}"


def _uri_template() -> str:
    """RFC 6570."""
    literals = r"[!#$&-;=?-\[\]_a-z~\u{A0}-\u{D7FF}\u{E000}-\u{10FFFF}]"
    varchar = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})"
    varspec = rf"{varchar}(?:\.?{varchar})*(?::[1-9]\d{{0,3}}|\*)?"
    return rf"^(?:{literals}|%[0-9A-Fa-f]{{2}}|\{{[+#./;?&=,!@|]?{varspec}(?:,{varspec})*\}})*$"


def _host() -> Language:
    """RFC 1123. Labels with hyphens in third and fourth place are left out: whether an A-label (xn--) is valid takes
    IDNA's tables. 253 characters at most; counted by labels, up to four of any length or eight of up to 30, since
    counting both at once needs an automaton too large to walk."""

    def label(longest: int) -> str:
        inner = longest - 5
        return (
            r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]?[A-Za-z0-9])?"
            r"|[A-Za-z0-9][A-Za-z0-9-]{2}[A-Za-z0-9]"
            r"|[A-Za-z0-9][A-Za-z0-9-](?:[A-Za-z0-9][A-Za-z0-9-]|-[A-Za-z0-9])"
            rf"[A-Za-z0-9-]{{0,{inner}}}[A-Za-z0-9])"
        )

    return _own(rf"^(?:(?:{label(63)}\.){{0,3}}{label(61)}|(?:{label(30)}\.){{4,7}}{label(30)})$")


def _email() -> Language:
    """RFC 5321, without obsolete forms."""
    local = rf'(?:{_ATEXT}+(?:\.{_ATEXT}+)*|"(?:[\x20-\x21\x23-\x5B\x5D-\x7E]|\\[\x20-\x7E])*")'
    return _own(rf"^{local}@(?:{_HOST}|{_ADDRESS})$")


def _idn_email() -> Language:
    """RFC 6531; of host names beyond ASCII those whose labels are of common letters, for the others take IDNA's
    tables."""
    quoted = r'"(?:[\x20-\x21\x23-\x5B\x5D-\x7E\u{A0}-\u{10FFFF}]|\\[\x20-\x7E])*"'
    letters = (
        r"\u{DF}-\u{F6}\u{F8}-\u{FF}\u{3041}-\u{3096}\u{30A1}-\u{30FA}\u{4E00}-\u{9FFF}\u{AC00}-\u{D7A3}"
    )
    label = rf"[A-Za-z0-9{letters}][A-Za-z0-9{letters}\u{{300}}-\u{{33F}}]{{0,30}}"
    host = rf"(?:{_LABEL}|{label})(?:\.(?:{_LABEL}|{label}))*"
    return _own(rf"^(?:{_IDN_ATEXT}+(?:\.{_IDN_ATEXT}+)*|{quoted})@(?:{host}|{_ADDRESS})$")


def _pattern(pattern: str) -> Callable[[], Language]:
    return lambda: _own(pattern)


_DURATION_TIME = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_FORMATS: dict[str, Callable[[], Language]] = {
    "date": _pattern(rf"^{_DATE}$"),
    "time": lambda: _own(rf"^{_time()}$"),
    "date-time": lambda: _own(rf"^{_DATE}[Tt]{_time()}$"),
    "duration": _pattern(
        rf"^P(?:(?:\d+D|\d+M(?:\d+D)?|\d+Y(?:\d+M(?:\d+D)?)?)(?:{_DURATION_TIME})?|{_DURATION_TIME}|\d+W)$"
    ),
    "email": _email,
    "idn-email": _idn_email,
    "hostname": _host,
    "ipv4": _pattern(rf"^{_IPV4}$"),
    "ipv6": _pattern(rf"^{_IPV6}$"),
    "uuid": _pattern(r"^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"),
    "uri": lambda: _own(_uri(False)),
    "uri-reference": lambda: _own(_uri(True)),
    "iri": lambda: _own(_uri(False, _UCS, _PRIVATE)),
    "iri-reference": lambda: _own(_uri(True, _UCS, _PRIVATE)),
    "uri-template": lambda: _own(_uri_template()),
    "json-pointer": _pattern(rf"^{_POINTER}$"),
    "relative-json-pointer": _pattern(rf"^(?:0|[1-9]\d*)(?:#|{_POINTER})$"),
}
FORMATS = frozenset(_FORMATS)


@lru_cache(maxsize=len(_FORMATS))
def format_language(name: str) -> Language:
    """The texts of a format in `FORMATS`."""
    return _FORMATS[name]()
