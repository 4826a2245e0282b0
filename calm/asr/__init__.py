"""Speech to text by Whisper, and the quality of its transcripts."""
