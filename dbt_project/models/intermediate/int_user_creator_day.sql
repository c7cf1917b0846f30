{{ daily_counts(['user_id', 'creator_id']) }}
