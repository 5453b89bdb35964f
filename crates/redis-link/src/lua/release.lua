-- Gives a lease back, so that another shim need not wait for its end. Behind call.lua.
-- KEYS: 1 lease; ARGV: 1 who held it
if call('HGET', KEYS[1], 'holder') == ARGV[1] then call('PEXPIRE', KEYS[1], '0') end
return 1
