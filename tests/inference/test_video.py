"""Frames: how many, when, which way up; damage; the writer; the thread that runs ahead."""

import struct
import threading
import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from triaffect.inference.video import is_video, read_camera, read_video
from triaffect.inference.video_writer import VideoWriter
from triaffect.io import InputError
from triaffect.jobs import read_ahead
from worlds import film, plain, remux


def test_frames_come_back_with_their_numbers_times_and_colours(tmp_path):
    frames = list(read_video(film(tmp_path / "a.mp4", 20, 25)))
    assert [frame.number for frame in frames] == list(range(20))
    assert np.allclose([frame.time for frame in frames], np.arange(20) / 25, atol=1e-4)
    assert frames[0].pixels.shape == (48, 64, 3)
    assert frames[0].pixels.dtype == np.uint8
    assert [abs(float(f.pixels[..., 0].mean()) - 8 * f.number) < 6 for f in frames] == [True] * 20


@pytest.mark.parametrize(
    ("thin", "numbers"), [({"every": 7}, [0, 7, 14]), ({"fps": 10}, [0, 3, 6, 9, 12, 15, 18]), ({"fps": 99}, range(20))]
)
def test_every_and_fps(tmp_path, thin, numbers):
    assert [frame.number for frame in read_video(film(tmp_path / "a.mp4", 20), **thin)] == list(numbers)


def test_a_frame_rate_that_does_not_divide_keeps_the_rate(tmp_path):
    times = [frame.time for frame in read_video(film(tmp_path / "a.mp4", 90), fps=7)]
    assert len(times) == 21
    assert max(np.abs(np.array(times) - np.arange(21) / 7)) < 1 / 30


def test_times_of_a_variable_frame_rate_are_kept(tmp_path):
    times = [0, 0.1, 0.15, 0.9, 1.0, 2.5]
    read = [frame.time for frame in read_video(film(tmp_path / "v.mp4", 6, times=times))]
    assert np.allclose(read, times, atol=1e-3)


def test_ffmpeg_never_waits_for_python_to_log(tmp_path):
    """A decoder that is closed would wait for ever; torchvision turns this logging on when it is imported."""
    path = film(tmp_path / "v.mp4", 3)
    av.logging.set_level(av.logging.DEBUG)
    try:
        with av.logging.Capture(local=False) as lines:
            assert len(list(read_video(path))) == 3
        assert not lines
    finally:
        av.logging.set_level(None)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_video_of_a_phone_held_sideways_is_turned_upright(tmp_path, turn):
    """The matrix in the file's header is what phones write; the marked corner tells where up is."""
    marked = plain(60, 60, 60)
    marked[:16, :16] = 240
    path = film(tmp_path / "a.mp4", 3, pixels=lambda i: marked)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    cos, sin = round(np.cos(np.radians(turn))), round(np.sin(np.radians(turn)))
    data[at : at + 36] = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    pixels = next(read_video(path)).pixels
    upright = np.rot90(marked, -turn // 90)  # clockwise
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 3


def test_pyav_with_and_without_the_option_metadata_errors(tmp_path, monkeypatch):
    """PyAV 15 to 18 have it and fail on metadata that is not UTF-8 without it; PyAV 19 refuses it."""
    path, real, options = film(tmp_path / "a.mp4", 3), av.open, []

    def newer(file, mode="r", *, io_open=None):
        options.append("newer")
        return real(file, mode, io_open=io_open)

    def older(file, mode="r", *, io_open=None, metadata_errors="strict"):
        options.append(metadata_errors)
        return real(file, mode, io_open=io_open)

    for replacement in (newer, older):
        monkeypatch.setattr(av, "open", replacement)
        assert len(list(read_video(path))) == 3
    assert options == ["newer", "replace"]


def test_a_playlist_opens_nothing_else(tmp_path):
    film(tmp_path / "secret.mp4")
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(InputError, match="not a photo or video"):
        next(read_video(tmp_path / "list.m3u8"))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_truncated_video_gives_what_decodes_and_names_the_place_of_the_damage(tmp_path, suffix):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (90, 48, 64, 3), dtype=np.uint8)
    intact = film(tmp_path / "whole.mp4", 90, pixels=lambda i: noise[i])
    path = remux(intact, tmp_path / f"f.{suffix}", **({"movflags": "faststart"} if suffix == "mp4" else {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    numbers = []
    with pytest.raises(InputError, match=r"f\.m.*: damaged, .*\d\.\d s") as caught:
        numbers.extend(frame.number for frame in read_video(path))
    assert 20 < len(numbers) < 70
    assert f"the {len(numbers)} frames that decode" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_odd_sizes_lose_a_line_and_times_always_rise(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for seconds in (0, 0.5, 0.5, 0.2):
            writer.write(plain(size=(65, 49)), seconds)
        writer.write(plain(size=(30, 80)), 1)
    frames = list(read_video(tmp_path / "a.mp4"))
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}
    assert np.allclose([frame.time for frame in frames], [0, 0.5, 0.5, 0.5, 1], atol=1e-3)
    assert np.all(np.diff([frame.time for frame in frames]) > 0)


def test_the_writer_makes_what_every_player_plays(tmp_path):
    with av.open(str(film(tmp_path / "a.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


def with_sound(path, codec, seconds=2.0, late=0.0):
    """A red video of 25 frames per second whose sound is a tone of 440 Hz."""
    with av.open(str(path), "w") as container:
        images, sound = container.add_stream("libx264", rate=25), container.add_stream(codec, rate=48000, layout="mono")
        images.width, images.height, images.pix_fmt = 64, 48, "yuv420p"
        for i in range(round(25 * seconds)):
            frame = av.VideoFrame.from_ndarray(plain(200, 0, 0), format="rgb24")
            frame.pts, frame.time_base = i + round(25 * late), Fraction(1, 25)
            container.mux(images.encode(frame))
        container.mux(images.encode())
        wave = (8000 * np.sin(np.arange(round(48000 * (seconds + late))) * 2 * np.pi * 440 / 48000)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.pts, frame.rate = 0, 48000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


@pytest.mark.parametrize(("codec", "suffix", "late"), [("aac", "mp4", 0), ("pcm_s16le", "mov", 0), ("aac", "mkv", 1.0)])
def test_sound_is_copied_as_long_as_the_images_last(tmp_path, codec, suffix, late):
    source = with_sound(tmp_path / f"a.{suffix}", codec, late=late)
    frames = list(read_video(source))[:25]
    with VideoWriter(tmp_path / "b.mp4", source) as writer:
        for frame in frames:
            writer.write(frame.pixels, frame.time, frame.duration)
    with av.open(str(tmp_path / "b.mp4")) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == "aac"
        decoded = list(container.decode(sound))
    wave = np.concatenate([frame.to_ndarray()[0] for frame in decoded])
    assert len(wave) / 48000 == pytest.approx(1.0, abs=0.06)
    assert decoded[0].time == pytest.approx(0, abs=0.06)
    middle = wave[12000:36000]
    assert np.abs(np.fft.rfft(middle)).argmax() == pytest.approx(220, abs=2)  # 440 Hz in half a second


def test_a_video_without_sound_and_one_that_is_damaged_are_written_in_silence(tmp_path):
    film(tmp_path / "silent.mp4", 3)
    (tmp_path / "text.mp4").write_text("no video")
    for source in ("silent.mp4", "text.mp4"):
        with VideoWriter(tmp_path / "b.mp4", tmp_path / source) as writer:
            writer.write(plain(), 0)
        assert len(list(read_video(tmp_path / "b.mp4"))) == 1


def test_the_last_frame_lasts(tmp_path):
    """A slide of 9 seconds at the end is no damage, and it lasts in the copy too."""
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for seconds, duration in ((0, 3), (3, 3), (6, 9)):
            writer.write(plain(), seconds, duration)
    frames = list(read_video(tmp_path / "a.mp4"))
    assert [frame.time for frame in frames] == pytest.approx([0, 3, 6])
    assert frames[-1].duration == pytest.approx(9, abs=0.05)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(15, abs=0.05)


def test_frames_of_another_size_keep_their_shape(tmp_path):
    tall = plain(0, 0, 0, (48, 96))
    tall[24:72, 12:36] = 255
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(plain(0, 0, 0, (96, 96)), 0)
        writer.write(tall, 1)
    pixels = list(read_video(tmp_path / "a.mp4"))[1].pixels
    rows, columns = np.where(pixels[..., 1] > 128)
    assert np.ptp(columns) + 1 == pytest.approx(24, abs=2)
    assert np.ptp(rows) + 1 == pytest.approx(48, abs=2)


def test_reading_ahead_keeps_order_and_errors():
    def numbers():
        yield from range(50)
        raise InputError("broke")

    numbers_read = []
    with pytest.raises(InputError, match="broke"):
        numbers_read.extend(read_ahead(numbers()))
    assert numbers_read == list(range(50))


def test_reading_ahead_is_limited_and_ends_with_its_reader():
    made, closed = [], threading.Event()

    def endless():
        try:
            while True:
                made.append(0)
                yield 0
        finally:
            closed.set()

    reader = read_ahead(endless(), depth=3)
    next(reader)
    time.sleep(0.05)
    assert len(made) <= 6
    reader.close()
    assert closed.wait(2)


class Camera:
    def __init__(self, shots):
        self.shots, self.released = shots, False

    def isOpened(self):  # noqa: N802
        return bool(self.shots)

    def read(self):
        return self.shots.pop(0) if self.shots else (False, None)

    def release(self):
        self.released = True


def test_a_camera_gives_rgb_frames_and_is_reported_when_it_ends(monkeypatch):
    device = Camera([(True, plain(10, 20, 30))] * 4)
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: device)
    frames = []
    with pytest.raises(InputError, match=r"camera 0: stopped after .* s; .* The 4 frames before are in the result"):
        frames.extend(read_camera(0, every=2))
    assert [frame.number for frame in frames] == [0, 2]
    assert frames[0].pixels[0, 0].tolist() == [30, 20, 10]
    assert frames[0].time == 0 or frames[0].time < 0.1
    assert device.released


def test_a_camera_that_is_not_there(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: Camera([]))
    with pytest.raises(InputError, match="camera 3: returns no image"):
        next(read_camera(3))


def test_opencv_prints_nothing_of_its_own_about_a_camera(capfd):
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
    with pytest.raises(InputError, match="camera 63: returns no image"):
        next(read_camera(63))
    assert capfd.readouterr() == ("", "")


def test_a_size_that_changes_on_the_way(tmp_path):
    """Streams of H.264 after one another, as a call that is turned records them: every frame has its own size."""
    path, sizes = tmp_path / "both.h264", [(64, 48), (96, 128)]
    with path.open("wb") as file:
        for width, height in sizes:
            with av.open(str(tmp_path / "part.h264"), "w", format="h264") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"bf": "0"}
                for level in (40, 120, 200):
                    image = av.VideoFrame.from_ndarray(plain(level, level, level, (width, height)), format="rgb24")
                    container.mux(stream.encode(image))
                container.mux(stream.encode())
            file.write((tmp_path / "part.h264").read_bytes())
    frames = list(read_video(path))
    assert [(frame.width, frame.height) for frame in frames] == [size for size in sizes for _ in range(3)]
    assert [round(float(frame.pixels.mean()) / 40) for frame in frames] == [1, 3, 5] * 2
    with VideoWriter(tmp_path / "out.mp4") as writer:
        for frame in frames:
            writer.write(frame.with_overlays([]), frame.time)
    written = [frame.pixels for frame in read_video(tmp_path / "out.mp4")]
    assert [pixels.shape for pixels in written] == [(48, 64, 3)] * 6
    assert written[5][:, 28:36].mean() == pytest.approx(200, abs=6)


def test_an_edit_list_that_leaves_out_the_beginning(tmp_path):
    """A phone that trims a video keeps the packets and writes what is shown: from the fifth frame of ten."""
    data = bytearray(film(tmp_path / "a.mp4", 10, 25).read_bytes())
    at = data.find(b"elst") + 8
    assert struct.unpack(">I", data[at : at + 4]) == (1,)
    duration, start = struct.unpack(">Ii", data[at + 4 : at + 12])
    scale = struct.unpack(">I", data[(timescale := data.find(b"mdhd") + 16) : timescale + 4])[0]
    data[at + 4 : at + 12] = struct.pack(">Ii", duration * 6 // 10, start + 4 * scale // 25)
    (tmp_path / "cut.mp4").write_bytes(data)
    whole, cut = (list(read_video(tmp_path / name)) for name in ("a.mp4", "cut.mp4"))
    assert len(cut) == 6
    assert [frame.time for frame in cut] == pytest.approx([n / 25 for n in range(6)], abs=1e-3)
    assert np.abs(cut[0].pixels.astype(int) - whole[4].pixels).mean() < 1


def encode(path, size=64, count=25, codec="mjpeg", pixel="yuvj420p", sizes=(), sound=None, layout="mono", rate=8000):
    """A video of 25 frames a second by PyAV alone; of several sizes, a stream each."""
    noise = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=25) for _ in sizes or (size,)]
        voice = container.add_stream(sound, rate=rate, layout=layout) if sound else None
        for stream, side in zip(streams, sizes or (size,), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = pixel
        for number in range(count):
            for stream in streams:
                pixels = cv2.resize(noise[number], (stream.width, stream.height))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            if voice:
                silence = np.zeros((1, rate // 25 * len(av.AudioLayout(layout).channels)), np.int16)
                part = av.AudioFrame.from_ndarray(silence, format="s16", layout=layout)
                part.rate, part.pts, part.time_base = rate, number * (rate // 25), Fraction(1, rate)
                container.mux(voice.encode(part))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm"])
def test_a_short_file_without_its_end_is_reported_whatever_its_container(tmp_path, suffix):
    codec, pixel = ("libvpx", "yuv420p") if suffix == ".webm" else ("mjpeg", "yuvj420p")
    path = encode(tmp_path / f"a{suffix}", codec=codec, pixel=pixel, sound=None if suffix == ".webm" else "pcm_s16le")
    assert len(list(read_video(path))) == 25
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    times = []
    with pytest.raises(InputError, match=r"damaged, .*decode are in the result"):
        times.extend(frame.time for frame in read_video(path))
    assert 5 < len(times) < 25


def test_of_several_videos_in_a_file_the_largest_is_read(tmp_path):
    notices = []
    frames = list(read_video(encode(tmp_path / "a.mkv", sizes=(32, 96, 64)), notices=notices))
    assert {(frame.width, frame.height) for frame in frames} == {(96, 96)}
    assert notices == [f"{tmp_path / 'a.mkv'}: the largest of its 3 videos is read, 96x96"]


def test_time_goes_on_where_a_clock_goes_back(tmp_path):
    path = encode(tmp_path / "a.ts", codec="mpeg2video", pixel="yuv420p")
    path.write_bytes(path.read_bytes() * 2)
    notices, times = [], []
    for frame in read_video(path, notices=notices):
        times.append(frame.time)
        if len(times) == 40:  # before the end, where the file is too long for what it states
            break
    assert np.allclose(np.diff(times), 0.04, atol=1e-3)
    assert [notice.partition(": ")[2] for notice in notices] == [
        "its clock goes back at 1.0 s; time is counted on from there"
    ]


@pytest.mark.parametrize(("layout", "rate"), [("mono", 8000), ("stereo", 192_000), ("5.1", 48_000)])
def test_sound_that_mp4_cannot_hold_is_encoded(tmp_path, layout, rate):
    """AVI states how many channels there are, and not which."""
    source = encode(tmp_path / "a.avi", sound="pcm_s16le", layout=layout, rate=rate)
    with VideoWriter(tmp_path / "b.mp4", source) as writer:
        for frame in read_video(source):
            writer.write(frame.pixels, frame.time, frame.duration)
    with av.open(str(tmp_path / "b.mp4")) as container:
        (voice,) = container.streams.audio
        assert voice.codec_context.name == "aac"
        assert float(voice.duration * voice.time_base) == pytest.approx(1, abs=0.1)


def test_a_document_with_a_picture_is_no_video(tmp_path):
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.4\n" + cv2.imencode(".jpg", plain())[1].tobytes() * 3)
    assert not is_video(path)
    with pytest.raises(InputError, match="not a photo or video that can be read; save it as JPEG or MP4"):
        next(read_video(path))
