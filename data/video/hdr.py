"""Pictures of high dynamic range as pictures of the standard range, which models are fed.

Code values become light in cd/m2 (PQ: SMPTE ST 2084; HLG: ITU-R BT.2100 at a peak of 1,000), and
BT.2020's primaries BT.709's (ITU-R BT.2087). Light near and above standard white is rolled off (the
EETF of ITU-R BT.2390, on the largest component, so that hues stay), and the result is coded for a
display of ITU-R BT.1886.
"""

import numpy as np


TRANSFERS = {16: "PQ", 18: "HLG"}  # by their numbers in ITU-T H.273
PEAK = 1000.0  # cd/m2, to which most are mastered; brighter light is shown as white
WHITE = 203.0  # cd/m2 of white in the standard range (ITU-R BT.2408)
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020's primaries
M1, M2 = 2610 / 16384, 2523 / 32  # the constants of PQ
C1, C2, C3 = 3424 / 4096, 2413 / 128, 2392 / 128
A, B, C = 0.17883277, 0.28466892, 0.55991073  # the constants of HLG


def to_standard(image: np.ndarray, transfer: str) -> np.ndarray:
    """uint8 (H, W, 3) of BT.709 from uint16 (H, W, 3) of BT.2020, both RGB of full range."""
    code = image / 65535
    light = pq_light(code) if transfer == "PQ" else hlg_light(code)
    light = np.maximum(light @ TO_BT709.T, 0)
    largest = np.maximum(light.max(-1, keepdims=True), 1e-6)
    light *= rolled_off(largest) / largest / WHITE
    return np.rint(255 * np.minimum(light, 1) ** (1 / 2.4)).astype(np.uint8)


def pq_light(code: np.ndarray) -> np.ndarray:
    """cd/m2 of PQ's code values from 0 to 1."""
    power = code ** (1 / M2)
    return 10000 * (np.maximum(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1)


def pq_code(light: np.ndarray) -> np.ndarray:
    """The inverse of `pq_light`."""
    power = (np.asarray(light) / 10000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2


def hlg_light(code: np.ndarray) -> np.ndarray:
    """cd/m2 of HLG's code values (..., 3) from 0 to 1 on a display with a peak of 1,000."""
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - C) / A) + B) / 12)
    return 1000 * scene * (scene @ LUMINANCE)[..., None] ** 0.2


def rolled_off(light: np.ndarray) -> np.ndarray:
    """Light up to PEAK as light up to WHITE: unchanged to the knee, then a Hermite spline."""
    top, most = pq_code(np.array(PEAK)), pq_code(np.array(WHITE)) / pq_code(np.array(PEAK))
    code = np.minimum(pq_code(light) / top, 1)
    knee = 1.5 * most - 0.5
    t = np.maximum((code - knee) / (1 - knee), 0)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * most
    )
    return pq_light(np.where(code < knee, code, spline) * top)
