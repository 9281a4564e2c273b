"""The audio front end: one second of sound becomes a 32 × 32 log-mel picture.

Whole batches at a time, in torch, so that training can compute it from freshly augmented audio.
"""

import torch
from torchaudio.transforms import AmplitudeToDB, MelScale, Spectrogram

from speech_commands import SAMPLE_RATE

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


class LogMel(torch.nn.Module):
    """Log-mel features in decibel, with a floor that digital silence and codec noise fall below."""

    def __init__(self) -> None:
        super().__init__()
        n_fft, n_mels = PARAMETERS["n_fft"], PARAMETERS["n_mels"]
        self.spectrum = Spectrogram(
            n_fft, hop_length=PARAMETERS["hop_length"], center=PARAMETERS["centred"], power=None
        )
        self.mel = MelScale(n_mels, SAMPLE_RATE, n_stft=n_fft // 2 + 1)
        self.to_decibel = AmplitudeToDB("power")

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return decibel values, [batch, 1, mel, time], of `waveform`, [batch, samples] within ±1."""
        spectrum = self.spectrum(waveform)
        # Four times as fast as the square of the absolute value.
        power = spectrum.real.square() + spectrum.imag.square()
        decibel = self.to_decibel(self.mel(power))
        return decibel.clamp(min=PARAMETERS["floor_db"]).unsqueeze(1)


def to_waveform(clips: torch.Tensor) -> torch.Tensor:
    """Return int16 samples as float32 within ±1."""
    return clips.to(torch.float32) / 32768
