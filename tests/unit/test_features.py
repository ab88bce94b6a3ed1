"""The store of encoder frames: what comes out is what went in, or nothing."""

import logging
import os

import pytest
import torch
from tiny import RATE, tone, write_tones

from audiollm.conversation import AudioPart
from audiollm.data import features
from audiollm.data.features import FeatureStore, sound_key


def frames(seed, length=7):
    return torch.randn(length, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(tmp_path):
    """Three sounds on disk."""
    store = FeatureStore(tmp_path / "store")
    for number in range(3):
        store.add(f"k{number}", frames(number, 5 + number), 1000 + number)
    store.flush()
    return store


def test_frames_come_back_rounded_to_bfloat16_in_another_process_too(store):
    other = FeatureStore(store.folder)
    for number in range(3):
        for one in (store, other):
            found = one.get(f"k{number}")
            assert torch.equal(found.frames_TC, frames(number, 5 + number).bfloat16())
            assert found.num_samples == 1000 + number
    assert "k0" in other and "k9" not in other and other.get("k9") is None


def test_several_writers_fill_one_folder(store):
    other = FeatureStore(store.folder)
    other.add("k0", frames(9), 1)  # is there already
    other.add("k7", frames(7), 7)
    other.flush()
    store.refresh()
    assert store.get("k7").num_samples == 7 and store.get("k0").num_samples == 1000
    assert not list(store.folder.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "gone"])
def test_a_broken_file_is_as_good_as_absent(store, damage, caplog):
    (shard,) = store.folder.glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes({"cut": content[:-9], "empty": b"", "other": b"RIFF" * 99, "gone": b""}[damage])
    if damage == "gone":
        shard.unlink()
    with caplog.at_level(logging.WARNING):
        broken = FeatureStore(store.folder)
    assert "k0" not in broken and broken.get("k0") is None
    assert ("broken and left out" in caplog.text) == (damage != "gone")


def test_a_flipped_bit_is_noticed_and_costs_one_sound(store, caplog):
    (shard,) = store.folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.with_name("shard-other.safetensors").write_bytes(content)
    shard.unlink()
    damaged = FeatureStore(store.folder)
    with caplog.at_level(logging.WARNING):
        found = [damaged.get(f"k{number}") for number in range(3)]
    assert sum(one is None for one in found) == 1 and "is damaged" in caplog.text


def test_the_limit_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_BYTES", 1)
    store = FeatureStore(tmp_path, limit_gib=2000 / 2**30)
    for number in range(100):
        store.add(f"k{number}", frames(number, 50), 1)  # 400 bytes, and a header
    assert store.is_full and 2000 <= store.num_bytes < 3000 and 2 <= len(store.places) < 6


def test_the_key_is_of_what_is_heard_and_not_of_its_name(tmp_path):
    first, second = (tmp_path / name for name in write_tones(tmp_path, 2))
    copy = tmp_path / "copy.wav"
    copy.write_bytes(first.read_bytes())
    key = sound_key(AudioPart(str(first)))
    assert key == sound_key(AudioPart(str(copy))) == sound_key(AudioPart(str(first), start=0.0))
    others = [AudioPart(str(second)), AudioPart(str(first), start=0.1), AudioPart(str(first), end=0.1)]
    samples = tone(400, 0.2)
    others += [AudioPart((samples, RATE)), AudioPart((samples[1:], RATE)), AudioPart(b"bytes")]
    assert len({key, *map(sound_key, others)}) == 7
    os.utime(copy, ns=(1, 1))
    copy.write_bytes(second.read_bytes())
    assert sound_key(AudioPart(str(copy))) == sound_key(AudioPart(str(second)))
