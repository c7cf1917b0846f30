{{ daily_counts(['user_id']) }}
