"""Where label nodes looked in an uploaded image. The page asks several times about each, so the last ones are kept."""

import hashlib
import json
from collections import OrderedDict
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple

from PIL import Image

from .scorer import Scorer

__all__ = ['Explainer']

KEPT_BYTES = 256 << 20  # of pixels
KEPT_JSON = 64 << 20  # bytes of answers
Found = Tuple[str, Image.Image]  # digest of the file, upright image


class Explainer:
    """Explains images.

    Args:
        scorer: Reads images; its model has a label graph.
        explain: `gkgnet_timm.explain`, or what has its arguments and result.
        is_vig: Whether the trunk is a graph of patches, which have neighbours, too.
    """

    def __init__(self, scorer: Scorer, explain: Callable[..., Any], is_vig: bool):
        self.scorer = scorer
        self.explain_image = explain
        self.is_vig = is_vig
        self._images: 'OrderedDict[str, Image.Image]' = OrderedDict()  # of the thread that reads
        self._answers: 'OrderedDict[Any, bytes]' = OrderedDict()  # of the thread that computes

    def read(self, upload: BinaryIO) -> Tuple[Optional[Found], str]:
        """Return the digest and the image of an upload, and '' or why it cannot be read."""
        upload.seek(0)
        digest = hashlib.sha256(upload.read()).hexdigest()
        image = self._images.pop(digest, None)
        if image is None:
            image, error = self.scorer.read_original(upload)
            if error:
                return None, error
        self._images[digest] = image
        size = sum(kept.width * kept.height * len(kept.getbands()) for kept in self._images.values())
        while size > KEPT_BYTES and len(self._images) > 1:
            _, dropped = self._images.popitem(last=False)
            size -= dropped.width * dropped.height * len(dropped.getbands())
        return (digest, image), ''

    def explain(self, labels: List[str], patch: Optional[Tuple[int, int]], found: Found) -> bytes:
        """Return the explanation of an image as JSON.

        Raises:
            ValueError: If a label or patch does not exist, or the trunk has no neighbours of patches.
        """
        digest, image = found
        key = (digest, tuple(labels), patch)
        answer = self._answers.pop(key, None)
        if answer is None:
            content = self._explain(labels, patch, image)
            answer = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(',', ':')).encode()
        self._answers[key] = answer
        size = sum(map(len, self._answers.values()))
        while size > KEPT_JSON and len(self._answers) > 1:
            size -= len(self._answers.popitem(last=False)[1])
        return answer

    def _explain(self, labels: List[str], patch: Optional[Tuple[int, int]], image: Image.Image) -> Dict[str, Any]:
        scorer = self.scorer
        explanation = self.explain_image(
            scorer.model,
            image,
            labels=labels or None,
            patch=patch,
            threshold=scorer.thresholds,
            class_names=scorer.names,
            amp=scorer.amp,
            amp_dtype=scorer.amp_dtype,
        )
        return dict(
            width=image.width,
            height=image.height,
            labels=[
                dict(label=label, score=round(float(score), 6), threshold=round(float(threshold), 6))
                for label, score, threshold in explanation.labels
            ],
            scores=scorer.by_name(explanation.scores),
            grids=[grid._asdict() for grid in explanation.grids],
            patches=explanation.to_json(),
        )
