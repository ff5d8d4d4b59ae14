"""Headers and folder names of the raw layouts."""

from __future__ import annotations

HEADERS = {
    "va": "valence,arousal",
    "expr": "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
    "au": "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26",
}
MTL = "image,valence,arousal,expression,aus"
ZEROS = ",".join("0" * 12)
FOLDERS = {
    "abaw2": {"va": "VA_Set", "expr": "EXPR_Set", "au": "AU_Set"},
    "abaw3": {"va": "VA_Estimation_Challenge", "expr": "EXPR_Classification_Challenge", "au": "AU_Detection_Challenge"},
    "abaw6": {"va": "VA_Estimation_Challenge", "expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"},
}
