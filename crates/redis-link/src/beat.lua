-- Publishes a heart-beat with the newest entry id, and returns that id.
-- KEYS: 1 head; ARGV: 1 channel, 2 name of the bridge, 3 now in ms, 4 name of its clock
local head = redis.call('HMGET', KEYS[1], 'epoch', 'number')
local id = (head[1] or '0') .. '-' .. (head[2] or '0')
redis.call('PUBLISH', ARGV[1], 'v=1 beat=' .. ARGV[2] .. ' id=' .. id .. ' t=' .. ARGV[3] .. ' c=' .. ARGV[4] .. '\n')
return id
