"""Laws of reading high dynamic range: known light has known code values in the standard range."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tttvideo.data.video.hdr import hlg_light, pq_code, pq_light, rolled_off, to_standard
from tttvideo.data.video.reader import VideoReader


@pytest.mark.parametrize(
    ("code", "light"), [(0, 0), (0.5081, 100), (0.5807, 203), (0.7518, 1000), (1, 10000)]
)
def test_pq_has_the_light_that_its_standard_tabulates(code, light):
    assert pq_light(np.array(code)) == pytest.approx(light, rel=2e-3)
    assert pq_code(np.array(light)) == pytest.approx(code, abs=1e-4)


@pytest.mark.parametrize(("code", "light"), [(0, 0), (0.5, 50.7), (0.75, 203), (1, 1000)])
def test_hlg_has_the_light_that_its_standard_tabulates(code, light):
    assert hlg_light(np.full(3, code)) == pytest.approx(np.full(3, light), rel=2e-3)


def test_light_below_the_knee_is_kept_and_the_peak_becomes_white():
    light = np.array([0.01, 1.0, 50.0, 80.0, 203.0, 500.0, 1000.0, 4000.0])
    rolled = rolled_off(light)
    assert rolled[:4] == pytest.approx(light[:4], rel=1e-9)
    assert (np.diff(rolled[:-1]) > 0).all() and rolled[-2:] == pytest.approx(203, rel=1e-3)


def test_a_colour_of_bt709_is_the_same_colour_out_of_bt2020():
    red = 80 * np.array([[[0.6274, 0.0691, 0.0164]]])  # BT.709's red in BT.2020's primaries
    code = np.rint(65535 * pq_code(red)).astype(np.uint16)
    expected = round(255 * (80 / 203) ** (1 / 2.4))
    assert to_standard(code, "PQ")[0, 0] == pytest.approx([expected, 0, 0], abs=9)


COLOURS = [
    (50, 50, 50),
    (0, 0, 0),
    (1000, 1000, 1000),
    (50.19, 5.53, 1.31),
]  # the last: BT.709's red
SHOWN = [(142, 142, 142), (0, 0, 0), (255, 255, 255), (173, 0, 0)]
HLG_CODES = [(0.4970,) * 3, (0.0,) * 3, (1.0,) * 3, (0.5417, 0.1809, 0.0880)]


def stored(red: float, green: float, blue: float) -> np.ndarray:
    """A picture (96, 64) of one colour in ten bits: luma, then two planes of chroma (BT.2020)."""
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    values = 876 * luma + 64, 896 * (blue - luma) / 1.8814 + 512, 896 * (red - luma) / 1.4746 + 512
    return np.repeat(np.rint(values), (64, 16, 16)).astype(np.uint16)[:, None].repeat(64, axis=1)


@pytest.mark.parametrize(("transfer", "number"), [("PQ", 16), ("HLG", 18)])
def test_a_video_of_high_range_is_read_as_one_of_standard_range(tmp_path, caplog, transfer, number):
    codes = HLG_CODES if transfer == "HLG" else [pq_code(np.array(light)) for light in COLOURS]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        options = {"x265-params": "log-level=none:lossless=1"}
        stream = container.add_stream("libx265", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        coder = stream.codec_context
        coder.color_trc, coder.color_primaries = number, 9
        coder.colorspace, coder.color_range = 9, 1
        for n, code in enumerate(codes):
            frame = av.VideoFrame.from_ndarray(stored(*code), format="yuv420p10le")
            frame.pts, frame.time_base = n, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    reader = VideoReader(tmp_path / "a.mp4", 64)
    assert reader.backend == "pyav" and f"high dynamic range ({transfer})" in reader.reason
    read = [frame.image for frame in reader]
    assert max(image.std(axis=(0, 1)).max() for image in read) == 0
    for image, shown in zip(read, SHOWN, strict=True):
        assert image[0, 0].tolist() == pytest.approx(shown, abs=12 if shown == SHOWN[3] else 1)
    assert "is mapped to the standard range" in caplog.text
