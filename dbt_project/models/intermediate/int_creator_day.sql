{{ daily_counts(['creator_id']) }}
