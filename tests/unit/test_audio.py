"""Properties of the door for sound. Every file is made here, from arithmetic; the references are soxr and numpy."""

import base64
import contextlib
import io
import os
import pickle
import signal
import struct
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile as sf
import soxr

from audiollm import audio
from audiollm.audio import AudioError

SECONDS = 3.0
SOUNDFILE_KINDS = {  # name -> (format, subtype, rate)
    "wav16": ("WAV", "PCM_16", 44100),
    "wav24": ("WAV", "PCM_24", 96000),
    "wav32": ("WAV", "PCM_32", 16000),
    "wav_float": ("WAV", "FLOAT", 22050),
    "wav_double": ("WAV", "DOUBLE", 8000),
    "wav_u8": ("WAV", "PCM_U8", 11025),
    "flac16": ("FLAC", "PCM_16", 44100),
    "flac24": ("FLAC", "PCM_24", 192000),
    "ogg": ("OGG", "VORBIS", 44100),
    "opus": ("OGG", "OPUS", 48000),
    "mp3": ("MP3", "MPEG_LAYER_III", 44100),
}
PYAV_KINDS = {  # name -> (container, codec, rate, muxer options)
    "m4a": ("ipod", "aac", 44100, {}),
    "mp4": ("mp4", "aac", 16000, {"movflags": "faststart"}),
    "fragmented_mp4": ("mp4", "aac", 16000, {"movflags": "frag_keyframe+empty_moov", "frag_duration": "400000"}),
    "webm": ("webm", "libopus", 48000, {}),
    "mp3_without_count": ("mp3", "libmp3lame", 44100, {"write_xing": "0"}),
    "adts": ("adts", "aac", 44100, {}),
}
LOSSLESS = ["wav16", "wav24", "wav32", "wav_float", "wav_double", "flac16", "flac24"]
KINDS = [*SOUNDFILE_KINDS, *PYAV_KINDS]


def chirp(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """A tone [L] that rises from 200 to 1,500 Hz, peak 0.4: every moment of it is different."""
    t = np.arange(round(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 * t + 650 * t**2 / seconds))).astype(np.float32)


def noise(*shape: int, peak: float = 0.9) -> np.ndarray:
    return np.random.default_rng(0).uniform(-peak, peak, shape).astype(np.float32)


def soundfile_bytes(samples: np.ndarray, rate: int, format: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    """Samples [L] or [L, C] as the bytes of a file."""
    out = io.BytesIO()
    sf.write(out, samples, rate, format=format, subtype=subtype)
    return out.getvalue()


def pyav_bytes(
    folder: Path, samples: np.ndarray, rate: int, container: str, codec: str, options: dict, *, video: float = 0.0
) -> bytes:
    """Samples [L] as the bytes of a file, with so many seconds of a black film beside them."""
    path = folder / "made_by_pyav"
    with av.open(str(path), "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = "mono"
        film = out.add_stream("mpeg4", rate=10, width=16, height=16) if video else None
        for _ in range(round(video * 10)):
            out.mux(film.encode(av.VideoFrame(16, 16, "yuv420p")))
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
        for part in [*resampler.resample(frame), None]:
            out.mux(stream.encode(part))
        if film:
            out.mux(film.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[bytes, int]]:
    """The same chirp in every kind of file: kind -> (bytes, its rate in Hz)."""
    folder = tmp_path_factory.mktemp("files")
    made = {}
    for kind, (format, subtype, rate) in SOUNDFILE_KINDS.items():
        made[kind] = soundfile_bytes(chirp(rate), rate, format, subtype), rate
    for kind, (container, codec, rate, options) in PYAV_KINDS.items():
        made[kind] = pyav_bytes(folder, chirp(rate), rate, container, codec, options), rate
    return made


# ---- what is heard ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_sound_that_was_written(files, kind):
    data, rate = files[kind]
    samples, truth = audio.load(data, rate), chirp(rate)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    # Without an edit list a decoder cannot know how much silence the encoder put around the sound: up to two packets.
    padding = 3 * 1152 if kind in ("fragmented_mp4", "mp3_without_count", "adts") else 0
    assert len(truth) <= len(samples) <= len(truth) + padding
    if kind in LOSSLESS:
        np.testing.assert_allclose(samples, truth, atol=2**-15)  # one step of 16 bit
    else:
        delays = range(len(samples) - len(truth) + 1)
        errors = [np.abs(samples[delay : delay + len(truth)] - truth).mean() for delay in delays]
        assert min(errors) < 0.02  # silence would be 0.25 away


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 192000])
def test_any_rate_and_number_of_channels_equals_soxr_of_the_mean(rate, channels):
    samples = noise(rate // 4, channels, peak=0.5)
    loaded = audio.load(soundfile_bytes(samples, rate), 16000)
    np.testing.assert_array_equal(loaded, soxr.resample(samples.mean(axis=1), rate, 16000, quality="HQ"))
    assert len(loaded) == 4000


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_24"), ("FLAC", "PCM_24"), ("WAV", "FLOAT")])
def test_mono_is_the_mean_of_six_channels(format, subtype):
    samples = noise(5000, 6)
    loaded = audio.load(soundfile_bytes(samples, 16000, format, subtype), 16000)
    np.testing.assert_allclose(loaded, samples.mean(axis=1), atol=2**-22)  # a step of 24 bit


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_equals_that_slice_of_the_whole(files, kind):
    data, rate = files[kind]
    whole = audio.load(data, rate)
    for start, end in [(0.0, 0.1), (0.25, 1.0), (1.2345, 1.2645), (2.2, 2.98), (2.9, None)]:
        part = audio.load(data, rate, start=start, end=end)
        stop = None if end is None else round(end * rate)
        # AAC replaces what sounds like noise by noise of its own, which depends on where decoding began.
        tolerance = 2e-3 if kind in ("m4a", "mp4", "fragmented_mp4") else 1e-6
        np.testing.assert_allclose(part, whole[round(start * rate) : stop], atol=tolerance)


def test_a_part_at_the_end_of_a_long_opus_file_equals_that_slice(tmp_path):
    path = tmp_path / "long.opus"
    audio.write(path, chirp(48000, 20.0), 48000)
    whole = audio.load(path, 48000)
    np.testing.assert_array_equal(audio.load(path, 48000, start=19.5), whole[round(19.5 * 48000) :])


@pytest.mark.parametrize("kind", ["flac16", "mp4"])
def test_only_the_part_is_decoded(files, kind):
    """Damage outside a part does not touch it, neither before nor after."""
    data, rate = files[kind]
    whole = audio.load(data, rate)
    for damaged_at, start, end in [(0.95, 0.2, 0.6), (0.5, 2.6, 2.9)]:
        at = int(damaged_at * len(data))
        damaged = data[:at] + bytes(100) + data[at + 100 :]
        with contextlib.suppress(AudioError):
            assert not np.allclose(audio.load(damaged, rate), whole, atol=0.01)
        part = audio.load(damaged, rate, start=start, end=end)
        np.testing.assert_allclose(part, whole[round(start * rate) : round(end * rate)], atol=2e-3)


def test_the_sound_of_a_film_is_read(tmp_path):
    for video_s in (1.0, 5.0):
        film = pyav_bytes(tmp_path, chirp(44100), 44100, "mp4", "aac", {}, video=video_s)
        assert len(audio.load(film, 44100)) == round(SECONDS * 44100)
        assert audio.duration(film) == SECONDS
        film = pyav_bytes(tmp_path, chirp(48000), 48000, "matroska", "libopus", {}, video=video_s)
        assert len(audio.load(film, 48000)) == round(SECONDS * 48000)
        assert audio.duration(film) == SECONDS


# ---- where it comes from ---------------------------------------------------------------------------------------------


def fake_decoder(samples: np.ndarray, rate: int) -> SimpleNamespace:
    """What `datasets` 4 and 5 put into a row: an object with get_all_samples."""
    return SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=samples, sample_rate=rate))


def test_all_sources_of_the_same_sound_agree(tmp_path):
    samples = noise(8000, 2)
    data = soundfile_bytes(samples, 22050)
    path = tmp_path / "a clip.wav"
    path.write_bytes(data)
    truth = audio.load(path, 16000)
    sources = {
        "str": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "BytesIO": io.BytesIO(data),
        "data URI": "data:audio/wav;base64," + base64.b64encode(data).decode(),
        "[L, C]": (samples, 22050),
        "[C, L]": (samples.T, 22050),
        "decoder": fake_decoder(samples.T, 22050),
        "array dict": {"array": samples.mean(axis=1), "sampling_rate": 22050, "path": "elsewhere.wav"},
        "list dict": {"array": samples.mean(axis=1).tolist(), "sampling_rate": 22050.0},
        "bytes dict": {"bytes": data, "path": "elsewhere.wav"},
        "path dict": {"bytes": None, "path": str(path)},
        "nested bytes": {"context": {"bytes": data, "path": None}},
        "nested array": {"context": {"array": samples.T, "sampling_rate": 22050}},
        "nested path": {"context": str(path)},
    }
    for name, source in sources.items():
        np.testing.assert_array_equal(audio.load(source, 16000), truth, err_msg=name)
        assert audio.duration(source) == 8000 / 22050, name
        np.testing.assert_array_equal(
            audio.load(source, 22050, start=0.1, end=0.2), samples.mean(axis=1)[2205:4410], err_msg=name
        )


def test_an_open_file_is_read_from_its_beginning_and_stays_open(tmp_path):
    path = tmp_path / "clip.flac"
    audio.write(path, chirp(16000), 16000)
    with path.open("rb") as file:
        once, again = audio.load(file, 16000), audio.load(file, 16000)
        assert not file.closed
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".m4a", ".raw", ".txt", ""])
@pytest.mark.parametrize("kind", ["mp3", "wav16", "m4a", "flac16"])
def test_the_suffix_of_a_file_plays_no_part(files, tmp_path, kind, suffix):
    data, rate = files[kind]
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(data)
    np.testing.assert_array_equal(audio.load(path, rate), audio.load(data, rate))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32"])
def test_the_full_scale_of_an_integer_type_becomes_one(dtype):
    limits = np.iinfo(dtype)
    middle = (int(limits.max) + int(limits.min) + 1) // 2
    samples = np.array([limits.min, middle, limits.max] * 10, dtype=dtype)
    loaded = audio.load((samples, 16000), 16000)
    np.testing.assert_allclose(loaded[:3], [-1, 0, 1], atol=2.0 ** (1 - 8 * samples.itemsize))


def test_integers_and_floats_of_the_same_sound_agree():
    samples = chirp(16000)
    np.testing.assert_allclose(audio.load(((samples * 32768).astype(np.int16), 16000), 16000), samples, atol=2**-15)


def test_the_caller_s_array_is_neither_shared_nor_changed():
    samples = noise(1000, peak=1.2)
    before = samples.copy()
    audio.load((samples, 16000), 16000)[:] = 0
    np.testing.assert_array_equal(samples, before)


def test_peaks_a_little_over_one_are_clipped():
    loaded = audio.load((noise(4000, peak=1.5), 16000), 16000)
    assert loaded.max() == 1.0
    assert loaded.min() == -1.0


# ---- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_duration_equals_samples_by_rate(files, kind):
    data, rate = files[kind]
    tolerance = 0.01 if kind == "webm" else 0.0  # its header counts milliseconds, with the codec's delay in them
    assert audio.duration(data) == pytest.approx(len(audio.load(data, rate)) / rate, abs=tolerance)


@pytest.mark.parametrize("kind", SOUNDFILE_KINDS)
def test_duration_decodes_nothing_where_the_header_tells(files, kind, monkeypatch):
    monkeypatch.setattr(sf.SoundFile, "read", None)
    assert audio.duration(files[kind][0]) == SECONDS


def test_an_mp3_that_does_not_count_its_frames_is_read_to_its_end(files):
    """libsndfile divides the file's size by the bit rate, and counts the cover picture as sound."""
    data, rate = files["mp3_without_count"]
    cover = bytes(100_000)
    size = bytes((len(cover) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    with_cover = b"ID3\x04\x00\x00" + size + cover + data[data.index(b"\xff\xfb") :]
    assert sf.info(io.BytesIO(with_cover)).frames > 1.5 * len(audio.load(data, rate))
    np.testing.assert_array_equal(audio.load(with_cover, rate), audio.load(data, rate))
    assert audio.duration(with_cover) == audio.duration(data)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_wav_stream_without_known_length_is_read_to_its_end(files, size):
    data = bytearray(files["wav16"][0])
    data[4:8] = data[40:44] = struct.pack("<I", size)
    np.testing.assert_array_equal(audio.load(bytes(data), 44100), audio.load(files["wav16"][0], 44100))
    assert audio.duration(bytes(data)) == SECONDS


def flac_claiming(data: bytes, frames: int) -> bytes:
    """The same FLAC file with another number of samples in its header (36 bits; 0 means unknown)."""
    field = int.from_bytes(data[18:26], "big") >> 36 << 36 | frames
    return data[:18] + field.to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_flac_stream_without_known_length_is_read_to_its_end(subtype):
    data = soundfile_bytes(noise(50_000, 2), 16000, "FLAC", subtype)
    whole = audio.load(data, 16000)
    np.testing.assert_allclose(audio.load(flac_claiming(data, 0), 16000), whole, atol=1e-6)
    np.testing.assert_allclose(
        audio.load(flac_claiming(data, 0), 16000, start=2.5, end=3.0), whole[40_000:48_000], atol=1e-6
    )
    assert audio.duration(flac_claiming(data, 0)) == 50_000 / 16000


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("mp3_without_count", "adts", "fragmented_mp4")]
)
def test_a_file_that_is_cut_off_is_refused_wherever_the_cut(files, kind):
    data, rate = files[kind]
    for part in (0.001, 0.02, 0.1, 0.37, 0.5, 0.73, 0.9, 0.97):
        with pytest.raises(AudioError):
            audio.load(data[: int(part * len(data))], rate)


@pytest.mark.parametrize("kind", ["wav16", "wav24", "flac16", "mp3", "webm"])
def test_a_cut_off_file_says_how_many_samples_of_how_many(files, kind, tmp_path):
    data, rate = files[kind]
    path = tmp_path / "half"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"half: cut off or damaged: only [\d,]+ of [\d,]+ samples") as error:
        audio.load(path, rate)
    there, promised = (int(word.replace(",", "")) for word in str(error.value).split() if word[0].isdigit())
    assert there < promised
    assert promised == pytest.approx(SECONDS * rate, abs=0.01 * rate)


def mp3_claiming(data: bytes, frames: int) -> bytes:
    """The same MP3 file with another number of MPEG frames (of 1,152 samples) in its Xing header."""
    at = data.index(b"Xing") + 8
    return data[:at] + struct.pack(">I", frames) + data[at + 4 :]


@pytest.mark.parametrize("start", [None, 1000.0])
def test_a_header_that_claims_more_than_there_is_costs_no_memory(files, start):
    liars = [flac_claiming(files["flac16"][0], frames) for frames in (200_000, 2**31, 2**36 - 1)]
    liars += [mp3_claiming(files["mp3"][0], frames) for frames in (200, 2**20)]
    tracemalloc.start()
    for data in liars:
        with pytest.raises(AudioError, match=r"cut off|damaged|beyond its end"):
            audio.load(data, 16000, start=start)
    assert tracemalloc.get_traced_memory()[1] < 20e6  # the sound itself takes half a megabyte
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        b"just a sentence " * 100,
        b'{"a": 1}',
        b"\x89PNG\r\n\x1a\n" + bytes(999),
        bytes(5000),
        b"\xff\xfb" * 500,
    ],
)
def test_what_is_not_sound_is_refused_with_the_file_s_name(tmp_path, content):
    path = tmp_path / "picture.wav"
    path.write_bytes(content)
    for call in (lambda source: audio.load(source, 16000), audio.duration):
        with pytest.raises(AudioError, match=r"^.*picture\.wav: \w"):
            call(path)
        with pytest.raises(AudioError, match=r"^<bytes>: \w"):
            call(content)


def test_a_playlist_is_never_followed(files, tmp_path):
    (tmp_path / "clip.m4a").write_bytes(files["m4a"][0])
    playlists = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{tmp_path}/clip.m4a\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile '{tmp_path}/clip.m4a'\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="not a sound file"):
            audio.load(tmp_path / name, 16000)


def test_a_file_without_a_sound_track_is_refused(tmp_path):
    with av.open(str(tmp_path / "silent.mp4"), "w") as out:
        film = out.add_stream("mpeg4", rate=10, width=16, height=16)
        out.mux(film.encode(av.VideoFrame(16, 16, "yuv420p")))
        out.mux(film.encode(None))
    with pytest.raises(AudioError, match=r"silent\.mp4: holds no sound"):
        audio.load(tmp_path / "silent.mp4", 16000)


def test_places_that_hold_no_file_are_refused_in_words(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "empty.wav").touch()
    for place, cause in {
        tmp_path / "missing.wav": "no such file",
        tmp_path / "empty.wav": "empty",
        tmp_path / "pipe.wav": "not an ordinary file",
        tmp_path: "is a folder",
        "https://example.org/a.wav": "is a URL; download",
        "hf://datasets/a/b.wav": "is a URL; download",
        "a\0b.wav": "null",
        "x" * 5000: "too long",
        "data:audio/wav;base64,????": "not valid base64",
        "data:audio/wav,abc": "must look like data:",
    }.items():
        with pytest.raises(AudioError, match=cause):
            audio.load(place, 16000)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (None, "NoneType is not sound"),
        (3.5, "float is not sound"),
        (noise(100), "ndarray is not sound"),
        ({}, "none of the keys"),
        ({"bytes": None, "path": None}, "none of the keys"),
        ({"array": noise(100)}, "no sampling_rate"),
        (io.StringIO("text"), "open as text"),
        ((noise(100), 0), "not a sampling rate"),
        ((noise(100), 10**9), "not a sampling rate"),
        ((noise(100), None), "sampling rate"),
        ((noise(100), "fast"), "sampling rate"),
        ((noise(2, 3, 4), 16000), r"\[2, 3, 4\]"),
        ((np.float32(1.0), 16000), "shape"),
        (([[1.0], [2.0, 3.0]], 16000), "inhomogeneous"),
        (([], 16000), "no samples"),
        ((np.zeros((2, 0)), 16000), "no samples"),
        ((np.arange(100), 16000), "no known full scale"),
        ((np.zeros(100, complex), 16000), "no known full scale"),
        ((noise(100, peak=20_000), 16000), "must lie in"),
        ((np.array([0.1, np.nan]), 16000), "not finite"),
        ((np.array([0.1, -np.inf]), 16000), "not finite"),
        ((np.array([0.1]), 192_000), "too short"),
    ],
)
def test_a_wrong_source_is_refused_in_words(source, cause):
    with pytest.raises(AudioError, match=cause):
        audio.load(source, 8000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_one_sample_that_is_not_finite_condemns_the_file(value):
    samples = noise(4000, 2)
    samples[1234, 1] = value
    with pytest.raises(AudioError, match=r"not finite|must lie in"):
        audio.load(soundfile_bytes(samples, 16000), 16000)


def test_a_file_without_samples_is_refused():
    for call in (lambda source: audio.load(source, 16000), audio.duration):
        with pytest.raises(AudioError, match="no samples"):
            call(soundfile_bytes(np.zeros(0), 16000))


@pytest.mark.parametrize(
    ("start", "end", "cause"),
    [
        (-0.1, None, "start=-0.1"),
        (None, -1.0, "end=-1.0"),
        (float("nan"), None, "start=nan"),
        (None, float("inf"), "end=inf"),
        (1.0, 1.0, "greater than start"),
        (2.0, 1.0, "greater than start"),
        (None, 0.0, "greater than start"),
        (3.5, None, r"start=3\.5 s is beyond its end"),
        (1e12, None, "beyond its end"),
        (1.0, 3.2, r"end=3\.2 s is beyond its end at 3\.0"),
        (1.0, 1.0000001, "no sample between"),
    ],
)
@pytest.mark.parametrize("kind", ["wav16", "opus", "m4a", "webm"])
def test_times_outside_the_clip_are_refused_with_the_time(files, kind, start, end, cause):
    with pytest.raises(AudioError, match=cause):
        audio.load(files[kind][0], 16000, start=start, end=end)


def test_a_jump_that_ends_behind_the_part_is_refused(files, monkeypatch):
    """Samples from another place than the one that was asked for would be worse than none."""
    monkeypatch.setattr(audio._PyAVReader, "_time_s", lambda self, frame: 2.5)
    with pytest.raises(AudioError, match="index is damaged"):
        audio.load(files["m4a"][0], 16000, start=2.0)


@pytest.mark.parametrize("kind", ["wav16", "opus", "m4a", "webm", "mp3"])
def test_an_end_that_was_rounded_up_means_the_last_sample(files, kind):
    data, rate = files[kind]
    np.testing.assert_array_equal(audio.load(data, rate, start=2.0, end=3.04), audio.load(data, rate, start=2.0))


def test_an_impossible_sampling_rate_is_refused(files):
    for rate in (0, -16000, 16000.5, 10**7):
        with pytest.raises(AudioError, match="not a sampling rate"):
            audio.load(files["wav16"][0], rate)


def test_an_error_says_name_and_cause_and_survives_the_way_out_of_a_worker():
    error = AudioError("clips/17.flac", "no such file")
    assert str(error) == "clips/17.flac: no such file"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(AudioError(str(error))) == str(error)  # how torch's DataLoader raises it again
    assert isinstance(error, ValueError)


def test_names_are_short_and_say_where_the_sound_comes_from(tmp_path):
    for source, name in [
        ("clips/a.wav", "clips/a.wav"),
        (Path("clips/a.wav"), "clips/a.wav"),
        (b"RIFF", "<bytes>"),
        (io.BytesIO(b"RIFF"), "<file>"),
        ("data:audio/wav;base64,AAAA", "<data: URI>"),
        ((noise(3), 16000), "<array>"),
        ({"array": noise(3), "sampling_rate": 16000}, "<array>"),
        ({"bytes": b"RIFF", "path": "a.wav"}, "a.wav"),
        ({"bytes": b"RIFF", "path": None}, "<bytes>"),
        ({"context": {"bytes": b"RIFF", "path": "a.wav"}}, "a.wav"),
        (None, "<NoneType>"),
    ]:
        assert audio.name_of(source) == name
    assert len(audio.name_of("UklGR" * 10_000)) < 200


def mutated(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One way to ruin a file: flipped bits, a cut, foreign bytes, an absurd number in the header, a graft."""
    content, at = bytearray(data), int(rng.integers(len(data)))
    match rng.integers(6):
        case 0:
            for place in rng.integers(len(content), size=rng.integers(1, 20)):
                content[place] ^= 1 << rng.integers(8)
        case 1:
            content = content[:at]
        case 2:
            content = content[at:]
        case 3:
            content[at : at + rng.integers(1, 400)] = rng.bytes(rng.integers(0, 400))
        case 4:
            place = rng.integers(min(200, len(content) - 4))
            content[place : place + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4))[rng.integers(3)]
        case _:
            content[at:] = others[rng.integers(len(others))][at // 2 :]
    return bytes(content)


def test_500_ruined_files_give_finite_samples_or_an_audio_error(files, tmp_path):
    rng = np.random.default_rng(7)
    contents = [data for data, _ in files.values()]
    outcomes = {"samples": 0, "error": 0}
    for _ in range(500):
        path = tmp_path / f"ruined.{rng.choice(['wav', 'mp3', 'm4a', 'flac', 'raw', 'txt'])}"
        path.write_bytes(mutated(contents[rng.integers(len(contents))], contents, rng))
        start, end = (None, None) if rng.integers(2) else (rng.uniform(0, 1), rng.uniform(1, 3))
        try:
            samples = audio.load(path, 16000, start=start, end=end)
        except AudioError as error:
            assert str(error).startswith(f"{path}: ")
            assert error.cause
            outcomes["error"] += 1
        else:
            assert samples.dtype == np.float32
            assert samples.ndim == 1
            assert 0 < len(samples) < 60 * 16000
            assert np.abs(samples).max() <= 1.0  # false for NaN too
            outcomes["samples"] += 1
    assert min(outcomes.values()) > 50, outcomes


# ---- resample, encode, write -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [(48000, 16000), (44100, 16000), (8000, 16000), (192000, 8000), (16000, 16000)])
def test_resample_equals_soxr_and_keeps_the_duration(rates):
    samples = noise(12345)
    resampled = audio.resample(samples, *rates)
    np.testing.assert_array_equal(resampled, soxr.resample(samples, *rates, quality="HQ"))
    assert len(resampled) == pytest.approx(12345 * rates[1] / rates[0], abs=0.5)
    assert resampled.dtype == np.float32


@pytest.mark.parametrize(
    ("format", "tolerance"), [("WAV", 2**-15), ("flac", 2**-15), ("OGG", 0.05), ("OPUS", 0.05), ("MP3", 0.05)]
)
def test_what_is_encoded_is_read_again(format, tolerance):
    samples = chirp(48000)
    again = audio.load(audio.encode(samples, 48000, format), 48000)
    assert len(again) == len(samples)
    np.testing.assert_allclose(again[:-480], samples[:-480], atol=tolerance)  # Opus loses the last milliseconds


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".FLAC"])
def test_the_suffix_says_how_a_file_is_written(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    audio.write(path, chirp(16000), 16000)
    assert sf.info(path).format == {"opus": "OGG"}.get(suffix[1:], suffix[1:].upper())
    assert audio.duration(path) == SECONDS


def test_a_long_vorbis_file_is_written():
    """Given a minute in one piece, libsndfile overflows its stack and takes Python with it."""
    assert audio.duration(audio.encode(chirp(48000, 60.0), 48000, "OGG")) == 60.0


def test_peaks_over_one_are_clipped_when_written_not_wrapped():
    again = audio.load(audio.encode(np.linspace(-1.5, 1.5, 1000), 16000, "WAV"), 16000)
    assert np.all(np.diff(again) >= 0)


@pytest.mark.parametrize(
    ("samples", "rate", "format", "cause"),
    [
        (noise(100), 16000, "AIFFF", "unknown format 'AIFFF'; known: WAV"),
        (noise(0), 16000, "WAV", "shape"),
        (noise(10, 2), 16000, "WAV", "shape"),
        (np.array([np.nan]), 16000, "WAV", "not finite"),
        (noise(100), 0, "WAV", "not a sampling rate"),
        (noise(100), 44100, "OPUS", "."),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_words(samples, rate, format, cause):
    with pytest.raises(AudioError, match=f"^<array>: .*{cause}"):
        audio.encode(samples, rate, format)


def test_writing_names_the_file_in_its_errors(tmp_path):
    for path, samples, cause in [
        (tmp_path / "clip.xyz", noise(100), r"clip\.xyz: cannot write \.xyz; use \.wav"),
        (tmp_path / "clip", noise(100), "clip: cannot write without a suffix"),
        (tmp_path / "clip.wav", noise(0), r"clip\.wav: needs samples"),
    ]:
        with pytest.raises(AudioError, match=cause):
            audio.write(path, samples, 16000)
        assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_until_libsndfile_has_read_or_written(monkeypatch, number):
    def stop(*_):
        raise KeyboardInterrupt

    def pressed_within(call):
        def pressed(self, *arguments, **settings):
            signal.raise_signal(number)
            found = call(self, *arguments, **settings)
            done.append(call)
            return found

        return pressed

    done, content = [], audio.encode(np.zeros(1000, np.float32), 16_000)
    monkeypatch.setattr(sf.SoundFile, "read", pressed_within(sf.SoundFile.read))
    monkeypatch.setattr(sf.SoundFile, "write", pressed_within(sf.SoundFile.write))
    before = signal.signal(number, stop)
    try:
        for work in (lambda: audio.load(content, 16_000), lambda: audio.encode(np.zeros(9, np.float32), 16_000)):
            with pytest.raises(KeyboardInterrupt):
                work()
            assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert len(done) == 2
