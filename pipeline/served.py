"""What MLflow serves: a released model behind `predict` (models from code: MLflow keeps this file beside the weights).

Input: a row an utterance, `audio` (a file's bytes in base64) and `text` (may be missing). Output: the probability of each class.
"""

import base64
import tempfile

import mlflow
import pandas as pd


class Served(mlflow.pyfunc.PythonModel):
    """Loads the model once, on the GPU where there is one."""

    def load_context(self, context) -> None:
        import torch

        from calm.inference import Predictor

        self.predictor = Predictor(context.artifacts["model"], "cuda" if torch.cuda.is_available() else "cpu")

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        texts = model_input["text"].tolist() if "text" in model_input else [None] * len(model_input)
        texts = [text if isinstance(text, str) else None for text in texts]
        clips = [self._read(base64.b64decode(audio)) for audio in model_input["audio"]]
        return pd.DataFrame(self.predictor(clips, texts), columns=self.predictor.classes)

    def _read(self, file: bytes):
        from calm.audio import read_audio

        with tempfile.NamedTemporaryFile() as written:
            written.write(file)
            written.flush()
            return read_audio(written.name, sample_rate=self.predictor.sample_rate)


mlflow.models.set_model(Served())
