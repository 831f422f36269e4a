"""Where a camera points, estimated from the frames alone: phase correlation, summed over time.

It serves a camera that pans over a scene; turning and zooming are not estimated. S pixels of height
and width.
"""

import numpy as np


BETTER = 0.85  # a shift must lower the median difference of two frames to this share
LEAST = 0.5  # of a frame must still be seen in the next
FAINT = 1e-3  # power, as a share of the greatest, below which a frequency tells less and less


class CameraPose:
    """The pose of a camera, (row, column) in pixels, from frame to frame of one video; starts at 0.

    The pose is where the frame lies in the scene: when the camera moves right, the scene moves left
    in the frame and the column rises.
    """

    def __init__(self) -> None:
        self.place = np.zeros(2)
        self.before: np.ndarray | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The pose (2,) at the next frame, (S, S, 3) uint8."""
        grey = frame.mean(2)
        if self.before is not None:
            self.place = self.place + camera_shift(self.before, grey)
        self.before = grey
        return self.place


def camera_shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(rows, columns) by which the camera moved between two frames (S, S), in parts of a pixel.

    Whole pixels are estimated again from what both frames show, until they are aligned.
    """
    whole = np.zeros(2, int)
    for _ in range(4):
        more = peak_shift(*overlap(before, after, whole))
        whole = whole + more
        if (np.abs(whole) > (1 - LEAST) * len(before)).any():
            return np.zeros(2)
        if not more.any():
            break
    total = whole + rest_shift(*overlap(before, after, whole))
    still = np.median(np.abs(before - after))
    return total if difference(before, after, total) < BETTER * still else np.zeros(2)


def overlap(before: np.ndarray, after: np.ndarray, whole: np.ndarray) -> list[np.ndarray]:
    """The parts of two frames that show the same, if the camera moved by whole pixels."""
    (up, left), (down, right) = np.maximum(whole, 0), np.maximum(-whole, 0)
    height, width = np.array(before.shape) - np.abs(whole)
    return [
        before[up : up + height, left : left + width],
        after[down : down + height, right : right + width],
    ]


def peak_shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The highest peak of the phase correlation of two parts of equal size, in whole pixels."""
    product = tapered_spectrum(before) * tapered_spectrum(after).conj()
    power = np.abs(product)
    peaks = np.fft.irfft2(product / (power + FAINT * power.max() + 1e-9), before.shape)
    place = np.array(np.unravel_index(peaks.argmax(), peaks.shape))
    half = np.array(peaks.shape) // 2
    return (place + half) % peaks.shape - half


def rest_shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The shift, less than a pixel, between aligned parts: least squares on their slopes.

    Pixels that it explains badly, as where something moves, are left out of the next round.
    """
    slopes = np.stack(np.gradient((before + after) / 2)).reshape(2, -1)
    change = (after - before).ravel()
    shift, fits = np.zeros(2), np.ones(len(change), bool)
    for _ in range(3):
        shift = np.linalg.lstsq(slopes[:, fits].T, change[fits], rcond=1e-6)[0]
        error = np.abs(change - shift @ slopes)
        fits = error <= 2 * np.median(error)
    return np.clip(shift, -1, 1)


def tapered_spectrum(grey: np.ndarray) -> np.ndarray:
    """The Fourier transform of a part of a frame, faded out towards its borders."""
    down, across = (np.hanning(length + 2)[1:-1] for length in grey.shape)
    return np.fft.rfft2((grey - grey.mean()) * down[:, None] * across)


def difference(before: np.ndarray, after: np.ndarray, shift: np.ndarray) -> float:
    """The median difference of two frames, where both show the same after a shift."""
    shown = []
    for axis, length in enumerate(before.shape):  # the part of a pixel, by linear interpolation
        low, part = int(np.floor(shift[axis])), shift[axis] % 1
        near, far = (np.roll(before, -low - n, axis) for n in (0, 1))
        before = (1 - part) * near + part * far
        shown.append(slice(max(0, -low), length - max(0, low + 1)))
    return float(np.median(np.abs(before - after)[tuple(shown)]))
