-- Publishes a heart-beat with the newest entry id.
-- Behind head.lua. KEYS: 2 stream; ARGV: 4 channel, 5 name of the bridge, 6 now in ms, 7 clock of that time
-- Returns that id, or 'stale' and publishes nothing: see append.lua.

if not sound or epoch ~= known_epoch then return 'stale' end

-- Takes nothing away, but is a write: refused by a replica or a server that cannot persist, and
-- taken by one whose memory is full.
call('XDEL', KEYS[2], '0-0')

local id = entry_id(epoch, number)
call('PUBLISH', ARGV[4],
    'v=1 beat=' .. ARGV[5] .. ' id=' .. id .. ' t=' .. ARGV[6] .. ' c=' .. ARGV[7] .. '\n')
return id
