"""Speech to text by Whisper, and what is known of its transcripts."""
