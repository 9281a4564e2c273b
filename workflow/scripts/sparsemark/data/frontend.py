"""The audio front end: one second of sound becomes a 32 × 32 log-mel picture.

Whole batches at a time, in torch.
"""

import math

import torch
from torch.nn import functional
from torchaudio.transforms import AmplitudeToDB, MelScale, Spectrogram

from sparsemark.data.speech_commands import SAMPLE_RATE

#: What the front end computes; kept beside the features as `frontend.json`.
PARAMETERS = {
    "sample_rate": SAMPLE_RATE,
    "n_fft": 2048,
    "hop_length": 512,
    "n_mels": 32,
    "window": "hann",
    "centred": True,
    "floor_db": -40.0,
}


#: A spectrogram that training can read at other speeds and positions has this many frames for one of the features
STEPS = 2
#: and this many frames on either side of the clip.
MARGIN = 10


class LogMel(torch.nn.Module):
    """Log-mel spectrograms in decibel.

    Beyond its ends a clip goes on as its own mirror image.

    Args:
        steps: frames for every frame of the features, closer together.
        margin: frames before the first one and behind the last one.
    """

    def __init__(self, steps: int = 1, margin: int = 0) -> None:
        super().__init__()
        n_fft, hop = PARAMETERS["n_fft"], PARAMETERS["hop_length"] // steps
        self.reach = n_fft // 2 + margin * hop
        self.spectrum = Spectrogram(n_fft, hop_length=hop, center=False, power=None)
        self.mel = MelScale(PARAMETERS["n_mels"], SAMPLE_RATE, n_stft=n_fft // 2 + 1)
        self.to_decibel = AmplitudeToDB("power")

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return decibel values, [batch, mel, time], of `waveform`, [batch, samples] within ±1."""
        spectrum = self.spectrum(functional.pad(waveform, (self.reach, self.reach), mode="reflect"))
        # Four times as fast as the square of the absolute value.
        power = spectrum.real.square() + spectrum.imag.square()
        return self.to_decibel(self.mel(power))


def as_features(decibel: torch.Tensor) -> torch.Tensor:
    """Return features in decibel, [batch, 1, mel, time], of `decibel`, [batch, mel, time].

    They have a floor that digital silence and codec noise fall below.
    """
    return decibel.clamp(min=PARAMETERS["floor_db"]).unsqueeze(1)


def mel_places(factor: torch.Tensor) -> torch.Tensor:
    """Return where on the mel axis, in bands, each band's frequency is once it is divided by `factor`.

    Args:
        factor: [batch, 1].

    Returns:
        [batch, mel]; 0 is the centre of the first band.
    """
    bands = PARAMETERS["n_mels"]
    highest = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    mel = torch.arange(1, bands + 1, device=factor.device) * highest / (bands + 1)
    frequency = 700 * (10 ** (mel / 2595) - 1) / factor
    return 2595 * torch.log10(1 + frequency / 700) * (bands + 1) / highest - 1


def to_waveform(clips: torch.Tensor) -> torch.Tensor:
    """Return int16 samples as float32 within ±1."""
    return clips.to(torch.float32) / 32768
