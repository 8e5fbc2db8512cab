import asyncio
async def test_a(standalone): assert await standalone.mode()=="standalone"
async def test_b(standalone): assert await standalone.mode()=="standalone"
async def test_c(ensemble3): assert len(await ensemble3.followers())==2
