"""The signed formats: what is accepted, and each refusal with its reason code."""

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mipy_ota.signing import board_file, keys, limits, manifest, reasons, trust
from mipy_ota.signing.board_file import Board
from mipy_ota.signing.reasons import Refused
from mipy_ota.signing.rsa import PublicKey, new_key
from tests.support import vectors


def code_of(call, *args) -> str:
    """The reason code `call` is refused with, "" when it is not."""
    try:
        call(*args)
    except Refused as refused:
        assert refused.code in reasons.SENTENCES
        return refused.code
    return ""


def judged(vector: vectors.Vector) -> str:
    dev = PublicKey.from_text(vector.dev) if vector.dev else None
    return code_of(manifest.verify, vector.raw, trust.parse(vector.trust), dev)


def test_manifests_are_judged_as_the_vectors_say():
    every = list(vectors.manifest_vectors())
    wrong = {v.name: (v.code, code) for v in every if (code := judged(v)) != v.code}
    assert not wrong
    assert len({v.name for v in every}) == len(every) >= 200


def test_trust_steps_are_judged_as_the_vectors_say():
    every = list(vectors.trust_steps())
    said = {s.name: code_of(trust.verify_next, trust.parse(s.old), s.new) for s in every}
    assert said == {s.name: s.code for s in every}
    assert len(said) == len(every) >= 30


def test_good_body_comes_back_byte_for_byte():
    for name, body, code in vectors.bodies():
        if not code:
            understood = manifest.parse(body)
            assert understood.encode() == body, name
            assert understood.digest == vectors.hashlib.sha256(body).hexdigest(), name


def test_broken_manifest_is_never_signed():
    broken = [vector for vector in vectors.bodies() if vector[2]]
    assert len(broken) >= 100
    for name, body, code in broken:
        assert code_of(manifest.add_signature, body, vectors.key("release")) == code, name


@pytest.mark.parametrize(
    "edit, code",
    [
        ((b"app weather", b"app we/ather"), "name"),
        ((b"mpy 6.3", b"mpy 6"), "syntax"),
        ((b"mpy 6.3", b"mpy 06.3"), "syntax"),
        ((b"mpy 6.3", b"mpy v6.3"), "syntax"),
        ((b"entry main", b"entry lib/leds"), "name"),
    ],
)
def test_host_refuses_what_a_board_would_find_foreign(edit, code):
    assert code_of(manifest.parse, vectors.good_body().replace(*edit)) == code


def test_signing_twice_leaves_one_signature():
    raw = manifest.make("weather", "any", 5, {"main.py": b""})
    once = manifest.add_signature(raw, vectors.key("release"))
    assert manifest.add_signature(once, vectors.key("release")) == once


def test_fifth_signature_is_refused():
    raw = manifest.make("weather", "any", 5, {"main.py": b""})
    for name in ("release", "release2", "release3", "root"):
        raw = manifest.add_signature(raw, vectors.key(name))
    assert code_of(manifest.add_signature, raw, vectors.key("unknown")) == "syntax"


def test_verified_names_who_vouches():
    made = manifest.make("weather", "any", 5, {"main.py": b""})
    raw = made
    for name in ("unknown", "release2", "release"):
        raw = manifest.add_signature(raw, vectors.key(name))
    verified = manifest.verify(raw, trust.parse(vectors.first_trust()))
    expected = sorted([vectors.public("release").id, vectors.public("release2").id])
    assert (list(verified.signers), verified.dev) == (expected, False)
    by_dev = manifest.add_signature(made, vectors.key("dev"))
    verified = manifest.verify(by_dev, trust.parse(vectors.first_trust()), vectors.public("dev"))
    assert (verified.signers, verified.dev) == ((vectors.public("dev").id,), True)


def test_make_refuses_what_parse_refuses():
    files = {"main.py": b""}
    assert code_of(lambda: manifest.make("weather", "any", -1, files)) == "syntax"
    assert code_of(lambda: manifest.make("weather", "any", 2**31, files)) == "syntax"
    assert code_of(lambda: manifest.make("weather", "any", 1, files, floor=2)) == "floor"
    assert code_of(lambda: manifest.make("wetter\nseq 9", "any", 1, files)) == "syntax"
    assert code_of(lambda: manifest.make("weather", "any", 1, files, note="a\nend")) == "syntax"
    assert code_of(lambda: manifest.make("weather", "any", 1, {})) == "syntax"


# --- trust ---------------------------------------------------------------------------------------


def test_board_walks_up_from_version_1():
    files = [vectors.first_trust()]
    for name in ("release3", "release4", "release5", "release6"):
        latest = trust.parse(files[-1])
        previous = latest.valid("release")[0].id
        new = trust.following(latest, add=[("release", vectors.public(name))], revoke=[previous])
        files.append(trust.add_signature(new.encode(), vectors.key("root")))
    walked = trust.verify_chain(files)
    assert walked.version == 5 and len(walked.revoked) == 4
    assert code_of(trust.verify_chain, [files[0], files[2]]) == "trust-version"


def test_first_version_vouches_for_itself():
    one = vectors.first_trust()
    assert trust.verify_first(one).version == 1
    assert code_of(trust.verify_first, trust.parse(one).body) == "trust-sig"
    assert code_of(trust.verify_first, vectors.revoking_trust()) == "trust-version"


def test_trust_that_locks_the_fleet_out_is_not_made():
    old = trust.parse(vectors.first_trust())
    last_root = [vectors.public("root").id]
    assert code_of(lambda: trust.following(old, revoke=last_root)) == "threshold"
    assert code_of(lambda: trust.following(old, release_threshold=3)) == "threshold"
    assert code_of(lambda: trust.first("weather", [])) == "threshold"


def test_revoked_key_never_comes_back():
    after = trust.parse(vectors.revoking_trust())
    again = [("release", vectors.public("release2"))]
    assert code_of(lambda: trust.following(after, add=again)) == "revoked"


def test_reset_is_for_one_version_and_the_rest_stays():
    old = trust.parse(vectors.first_trust())
    second = trust.following(old, reset=(7, 3), server="http://ota.example:8266/")
    third = trust.following(second)
    assert (second.reset, third.reset) == ((7, 3), None)
    assert third.server == "http://ota.example:8266/"
    assert trust.parse(third.encode()) == third


@pytest.mark.parametrize(
    "address", ["ftp://a", "http://", "a:80", "http://a:99999", "http://u:p@a", "http://a?b", "x"]
)
def test_odd_server_address_is_refused(address):
    old = trust.parse(vectors.first_trust())
    assert code_of(lambda: trust.following(old, server=address)) == "syntax"


# --- keys ----------------------------------------------------------------------------------------


def test_key_survives_pem_with_and_without_passphrase():
    private = vectors.key("release2")
    locked = keys.to_pem(private, "secret")
    assert keys.is_encrypted(locked) and not keys.is_encrypted(keys.to_pem(private))
    for pem, passphrase in ((locked, "secret"), (keys.to_pem(private), None)):
        assert PublicKey.of(keys.from_pem(pem, passphrase)) == vectors.public("release2")
    with pytest.raises(keys.PassphraseNeeded):
        keys.from_pem(locked)
    with pytest.raises(keys.BadKey, match="passphrase is wrong"):
        keys.from_pem(locked, "guess")
    with pytest.raises(keys.BadKey):
        keys.from_pem(b"-----BEGIN PRIVATE KEY-----\nhello\n")


@pytest.mark.parametrize("bits, exponent", [(1024, 65537), (4096, 65537), (2048, 3)])
def test_key_of_another_kind_is_refused(bits, exponent):
    private = generate_private_key(exponent, bits)
    assert code_of(keys.from_pem, keys.to_pem(private)) == "syntax"


def test_new_key_has_3072_bits():
    assert new_key().key_size == limits.NEW_KEY_BITS == 3072


# --- board file ----------------------------------------------------------------------------------

BOARD = Board(
    "home", "sim-01", "weather", "esp32", bytes(range(32)), webrepl="letmein", portal="12345678"
)


def test_board_file_hides_its_secrets():
    shown = repr(BOARD)
    assert BOARD.key.hex() not in shown and "letmein" not in shown and "12345678" not in shown


def _resealed(old: bytes, new: bytes) -> bytes:
    body = BOARD.encode().rpartition(b"end ")[0]
    assert body.count(old) == 1
    body = body.replace(old, new)
    return body + b"end %s\n" % vectors.hashlib.sha256(body).hexdigest()[:8].encode()


@pytest.mark.parametrize(
    "old, new, code",
    [
        (b"id sim-01", b"id sim 01", "name"),
        (b"id sim-01", b"id a/b", "name"),
        (b"ota-board 1", b"ota-board 2", "syntax"),
        (b"app weather\n", b"", "syntax"),
        (b"fleet home\n", b"", "syntax"),
        (b"fleet home", b"fleet a/b", "name"),
        (b"fleet home\nid sim-01\n", b"id sim-01\nfleet home\n", "syntax"),
        (b"webrepl letmein", b"webrepl letmeinnow", "syntax"),
        (b"webrepl letmein", b"webrepl a b", "syntax"),
        (b"portal 12345678", b"portal 1234567", "syntax"),
        (b"portal 12345678", b"portal " + b"x" * 64, "syntax"),
        (b"webrepl letmein\nportal 12345678", b"portal 12345678\nwebrepl letmein", "syntax"),
        (b"key 0001", b"key 001", "syntax"),
        (b"key 0001", b"server http://a\nkey 0001", "syntax"),
        (b"webrepl l", b"server http://a\n" * 4 + b"webrepl l", "syntax"),
        (b"webrepl l", b"server a\nwebrepl l", "syntax"),
        (b"id sim-01", b"id sim-01\n" + b"x" * 2048, "size"),
    ],
)
def test_odd_board_file_is_refused(old, new, code):
    assert code_of(board_file.parse, _resealed(old, new)) == code


def test_damaged_board_file_is_refused():
    raw = BOARD.encode()
    for at in range(len(raw)):
        assert code_of(board_file.parse, raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert code_of(board_file.parse, raw[:at])
    assert code_of(board_file.parse, raw + b"\n") == "hash"


# --- random input --------------------------------------------------------------------------------

# A busy machine is no defect.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

WORDS = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map("/".join)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=100)


@given(
    names=st.sets(NAMES, max_size=20),
    app=WORDS,
    seq=st.integers(0, 2**31 - 1),
    note=PRINTABLE,
    extra=st.lists(st.tuples(WORDS, PRINTABLE), max_size=3),
)
@PATIENT
def test_what_is_made_is_what_is_read(names, app, seq, note, extra):
    files = {"main.mpy": b"x"} | {f"{name}.bin": name.encode() for name in names}
    try:
        raw = manifest.make(app, "any", seq, files, floor=seq, note=note, extra=extra)
    except Refused as refused:  # random folders may be too full or have a file's name
        assert refused.code in ("syntax", "name")
        return
    understood = manifest.parse(raw)
    assert {file.name: file.size for file in understood.files} == {
        name: len(content) for name, content in files.items()
    }
    assert (understood.app, understood.seq, understood.note) == (app, seq, note)
    assert understood.extra == tuple(extra)
    assert understood.encode() == raw


GOOD = vectors.good_body() + vectors.signature(vectors.good_body(), "release")
TRUST = trust.parse(vectors.first_trust())


@given(
    at=st.integers(0, len(GOOD)),
    cut=st.integers(0, 40),
    put=st.binary(max_size=40) | st.sampled_from([b"\n", b"end\n", b"sig ", b"0", b" ", b"\0"]),
)
@settings(PATIENT, max_examples=500)
def test_no_mutation_verifies_or_raises_anything_else(at, cut, put):
    raw = GOOD[:at] + put + GOOD[at + cut :]
    assert raw == GOOD or code_of(manifest.verify, raw, TRUST)
    code_of(manifest.parse, raw)


@given(raw=st.binary(max_size=300), head=st.sampled_from([b"", b"ota-trust 1\n", b"ota-board 1\n"]))
@PATIENT
def test_noise_is_refused_with_a_code(raw, head):
    for parse in (manifest.parse, trust.parse, board_file.parse):
        assert code_of(parse, head + raw)
        assert code_of(parse, head + raw + b"\nend\n")


@given(st.integers(0, len(vectors.first_trust()) - 1), st.integers(0, 7))
@settings(PATIENT, max_examples=300)
def test_every_bit_of_a_trust_file_counts(at, bit):
    raw = bytearray(vectors.first_trust())
    raw[at] ^= 1 << bit
    assert code_of(trust.verify_first, bytes(raw))
